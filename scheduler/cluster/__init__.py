"""What the extender knows of the cluster: nodes, pods, measured memory, and the state that the event loop owns."""
