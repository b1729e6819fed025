"""The scheduler extender: filter, prioritize and bind pods by free VRAM and time slices."""
