"""Container images for a real node: small ones made here, and Headroom's own, built from deploy/Dockerfile."""
