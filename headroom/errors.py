"""Root of Headroom's exceptions: each boundary derives its own tree from it."""


class HeadroomError(Exception):
    """Something that Headroom itself recognised and can explain; the text is meant for a person."""
