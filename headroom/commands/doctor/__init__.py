"""`headroom doctor`: what is wrong with an installation, why it matters, and the command that mends it."""
