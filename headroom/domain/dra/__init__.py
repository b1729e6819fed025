"""Dynamic Resource Allocation (`resource.k8s.io/v1`): devices of ResourceSlices, classes, and what claims hold. Pure."""
