"""How long a replica takes to start, and which starting replicas still count as on the way. Pure."""

from collections.abc import Iterable
from statistics import median

from autoscaler.law.constants import LawConstants


def start_seconds(seen: tuple[float, ...], law: LawConstants) -> float:
    """The start-up time to reckon with: the median of the latest ones."""
    return median(seen) if seen else law.start_default_seconds


def overdue_seconds(usual_start_seconds: float, law: LawConstants) -> float:
    """The age from which a starting pod is long overdue."""
    return max(law.overdue_factor * usual_start_seconds, law.overdue_least_seconds)


def start_credit(ages_seconds: Iterable[float], usual_start_seconds: float, law: LawConstants) -> int:
    """How many starting pods will be there in time: all but those that are long overdue."""
    return sum(age <= overdue_seconds(usual_start_seconds, law) for age in ages_seconds)
