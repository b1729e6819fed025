"""The skeleton of a daemon: settings, logs, pages, tasks, and the guard that keeps them."""
