"""What the API server said: objects, workloads and pods, as few fields as are read; pure."""
