"""Root of Headroom's exceptions: each boundary derives its own tree from it."""


class HeadroomError(Exception):
    """Something that Headroom itself recognised and can explain; the text is meant for a person."""


def why(error: Exception) -> str:
    """The system's words for an error of a file or a connection, without its number and path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
