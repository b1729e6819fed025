"""The demo's first chapter: what a fleet holds under each way of sharing cards."""
