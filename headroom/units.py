"""Kubernetes quantities and durations, exactly.

Quantities follow the API server's grammar (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/):
a decimal number with a binary suffix (Ki..Ei), a decimal one (n, u, m, k..E) or an exponent.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Final

from headroom.errors import HeadroomError

MIB: Final = 2**20

_QUANTITY: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?\d+)?")
_BINARY: Final = {
    suffix: Fraction(1024**power) for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)
}
_DECIMAL: Final = {
    suffix: Fraction(10) ** power
    for suffix, power in (
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    )
}
_MULTIPLIER: Final = _BINARY | _DECIMAL | {"": Fraction(1)}
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_QUANTITY: Final = 64  # an exponent of a thousand digits must not cost memory


class UnitError(HeadroomError, ValueError):
    """A quantity or duration that cannot be read; the text names the value."""


@lru_cache(maxsize=4096)  # a cluster writes the same few quantities on pod after pod
def parse_quantity(text: str) -> Fraction:
    """Read a Kubernetes quantity (`20Gi`, `8e10`, `500m`) exactly. Raises UnitError."""
    match = _QUANTITY.fullmatch(text.strip()) if len(text) <= _LONGEST_QUANTITY else None
    if match is None:
        raise UnitError(f"{text[:_LONGEST_QUANTITY]!r} is not a quantity such as 20Gi, 8e10 or 500m")
    number, suffix = match.group(1), match.group(2) or ""
    if suffix in _MULTIPLIER:
        return Fraction(number) * _MULTIPLIER[suffix]
    exponent = int(suffix[1:])
    if abs(exponent) > 30:
        raise UnitError(f"{text!r} has an exponent out of range")
    return Fraction(number) * Fraction(10) ** exponent


def quantity_to_mib(text: str) -> int:
    """Bytes as whole MiB, rounded up, so that a request is never understated. Raises UnitError."""
    return -int(-parse_quantity(text) // MIB)


def quantity_to_mib_floor(text: str) -> int:
    """Bytes as whole MiB, rounded down, so that a capacity is never overstated. Raises UnitError."""
    return int(parse_quantity(text) // MIB)


def quantity_to_milli(text: str) -> int:
    """A count or CPU quantity in thousandths, rounded up as Kubernetes does. Raises UnitError."""
    return -int(-parse_quantity(text) * 1000 // 1)


def quantity_to_int(text: str) -> int:
    """A whole number such as a device count. Raises UnitError when it has a fraction."""
    value = parse_quantity(text)
    if value.denominator != 1:
        raise UnitError(f"{text!r} is not a whole number")
    return int(value)


def parse_duration_seconds(text: str) -> float:
    """Read `90s`, `10m`, `1h30m`, `250ms` or a bare number of seconds. Raises UnitError."""
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UnitError(f"{text!r} is not a duration such as 90s, 10m or 1h30m")
    return sum(float(number) * _DURATION_SECONDS[unit] for number, unit in parts)


def format_mib(mib: int) -> str:
    """MiB for people: `18.0 GiB`, `512 MiB`."""
    return f"{mib / 1024:.1f} GiB" if abs(mib) >= 1024 else f"{mib} MiB"
