"""Commands for people: they read the cluster or a file, say what they found, and write nothing."""
