"""A device plugin for tests that speaks to kubelet as NVIDIA's does."""
