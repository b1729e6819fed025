"""What kube-scheduler and people ask over HTTP: one file for each path, named like the path."""
