"""What the extender does without being asked: each part has a `run`."""
