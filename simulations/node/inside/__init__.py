"""What runs inside a node beside Kubernetes' own programs: its first process, name resolution, the OCI runtime."""
