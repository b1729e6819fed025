"""What the API server tells, by watch and by list: applied to what the extender knows of pods, devices and claims."""
