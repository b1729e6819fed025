"""The skeleton of a daemon: settings, logs, pages, tasks."""
