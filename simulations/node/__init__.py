"""A real node (kubelet, containerd, runc) under a real control plane, in namespaces of this machine."""
