"""`headroom convert`: manifests written for other schedulers and scalers, in Headroom's words."""
