"""One round over all objects: look, decide, act, report."""
