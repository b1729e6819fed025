"""The node agent: what each card really does, and who used it."""
