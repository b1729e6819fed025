"""A simulated cluster in this process: an API server, a kube-scheduler and the daemons against it, in virtual or real time."""
