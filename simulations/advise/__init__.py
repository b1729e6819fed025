"""`headroom advise`: what Headroom would save on a fleet that runs today, from what the API server and Prometheus know."""
