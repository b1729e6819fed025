"""What a user of a law can set: a range or a choice for each field, as tuning draws from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two bounds, both included."""

    low: float
    high: float
    logarithmic: bool = True
    whole: bool = False

    def at(self, share: float) -> float:
        """The value at a share of the range, 0-1."""
        ratio = self.high / self.low if self.logarithmic else 0.0
        value = self.low * ratio**share if self.logarithmic else self.low + (self.high - self.low) * share
        if self.whole:
            return float(round(value))
        digits = 2 - math.floor(math.log10(abs(value))) if value else 0
        return round(value, max(digits, 0))

    def share_of(self, value: float) -> float:
        """Where a value lies in the range, 0-1."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values, in a sensible order."""

    values: tuple[float, ...]

    def at(self, share: float) -> float:
        """The value at a share of the list, 0-1."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def share_of(self, value: float) -> float:
        """Where a value (or the nearest one) stands in the list, 0-1."""
        at = min(range(len(self.values)), key=lambda index: abs(self.values[index] - value))
        return (at + 0.5) / len(self.values)


Space = Mapping[str, Range | Choice]
