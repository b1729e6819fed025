"""The pods that are not known to be bound: their records, and the nodes that are kept for those that have waited too long."""
