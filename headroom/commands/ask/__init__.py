"""`headroom explain` and `headroom fit`: questions to the extender that decides, found through the API server."""
