"""`headroom estimate`: how much GPU memory a model needs, from its published configuration."""
