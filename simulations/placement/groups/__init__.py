"""`headroom simulate groups`: what placing groups all or none is worth, against pod by pod with a Permit plugin."""
