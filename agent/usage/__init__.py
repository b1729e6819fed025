"""`headroom usage`: a report over Prometheus; it runs on no node."""
