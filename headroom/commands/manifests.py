"""Manifests that commands are given as files."""

from typing import IO

from headroom.errors import HeadroomError


class ManifestError(HeadroomError):
    """A file that holds no manifest; the text names it."""


def text_of(file: IO[str]) -> str:
    """What is in the file. Raises ManifestError for one that is no text."""
    try:
        return file.read()
    except UnicodeDecodeError as error:
        raise ManifestError(f"{file.name}: is not text; give YAML or JSON") from error
