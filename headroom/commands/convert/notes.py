"""What a conversion says beside its result."""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from headroom.errors import HeadroomError

Manifest: TypeAlias = dict[str, Any]


class ConvertError(HeadroomError, ValueError):
    """A manifest that cannot be read; the text names the object and the field."""


@dataclass(slots=True)
class Notes:
    """One object's notes: what was carried over, what was left out and why, what to look at."""

    of: str
    carried: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    look_at: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The notes for people, the object's name first."""
        found = [f"  carried over: {text}" for text in self.carried]
        found += [f"  left out:     {text}" for text in self.left_out]
        found += [f"  look at:      {text}" for text in self.look_at]
        return [self.of, *(found or ["  nothing to convert"])]


def name_of(manifest: Manifest) -> str:
    """`Kind/name`, with the namespace where one is stated."""
    meta = manifest.get("metadata") or {}
    namespace = f" in {meta['namespace']}" if meta.get("namespace") else ""
    return f"{manifest.get('kind', '?')}/{meta.get('name') or meta.get('generateName') or '?'}{namespace}"
