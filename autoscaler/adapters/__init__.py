"""Where the autoscaler reads and writes: Prometheus, the scale subresource, the extender, FastChat."""
