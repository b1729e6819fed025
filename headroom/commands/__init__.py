"""Commands for people: they read the cluster or a file and say what they found. `clean-nodes` alone writes."""
