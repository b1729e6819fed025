"""How often each pod is scraped, and how far back must be asked to see that. Pure.

Prometheus is set to anything from 5 s to minutes, and not to the same for all. What was seen of a pod is remembered, so that a
sample that has grown old is told from none, and a spacing found once is known while fewer samples are asked for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from autoscaler.observation.series import PodKey

LONGEST_SPACING_SECONDS: Final = 120.0
"""Pods that are scraped more rarely are no basis: a replica is started and busy before it is seen."""
FIRST_LOOK_SECONDS: Final = 330.0
"""Asked for at first: two scrapes of the longest spacing, and one that was missed."""
SEARCH_SECONDS: Final = 660.0
"""Asked for when pods are silent: two scrapes of five minutes."""
SEARCH_AGAIN_SECONDS: Final = 600.0
LATENESS_SECONDS: Final = 15.0
"""From a scrape until its samples can be asked for, at most."""
FORGET_SECONDS: Final = 3600.0


class Scrape(NamedTuple):
    """What is known of the scrapes of a pod."""

    at_seconds: float
    """The latest."""
    spacing_seconds: float
    """0: not known yet."""


def fresh_seconds(scrape: Scrape | None, stale_seconds: float) -> float:
    """How old a sample may be: `stale_seconds`, or a scrape that was missed and the next one."""
    apart = min(scrape.spacing_seconds, LONGEST_SPACING_SECONDS) if scrape else 0.0
    return max(stale_seconds, 2 * apart + LATENESS_SECONDS)


class Windows(NamedTuple):
    """How far back to ask."""

    gauges_seconds: float
    counters_seconds: float
    rates_seconds: float
    """Of rates that Prometheus works out."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the next tick asks for; a new one follows from each tick."""

    longest_spacing_seconds: float = 0.0
    """Of the pods of all targets, those left out that are scraped too rarely."""
    oldest_seconds: float = 0.0
    """Age of the oldest scrape among them that can still be in sight: how late samples come."""
    searched_at: float | None = None
    search: bool = True
    first: bool = True

    def windows(self, stale_seconds: float, long_seconds: float) -> Windows:
        """Enough for a sample of every pod and for two of every counter, one missed scrape between, and for the means."""
        apart = self.longest_spacing_seconds
        looked = FIRST_LOOK_SECONDS if self.first else SEARCH_SECONDS
        gauges = max(stale_seconds, long_seconds, 2 * apart + LATENESS_SECONDS, self.oldest_seconds + LATENESS_SECONDS)
        counters = max(long_seconds + LATENESS_SECONDS, 3 * apart)
        return Windows(
            max(gauges + LATENESS_SECONDS, looked if self.search else 0.0),
            max(counters + LATENESS_SECONDS, FIRST_LOOK_SECONDS if self.first else 0.0),
            max(long_seconds, counters if apart > long_seconds / 3 else 0.0),
        )

    def after(self, spacings: Iterable[float], ages: Iterable[float], silent: bool, now: float) -> "Outlook":
        """After a tick at `now` that saw these spacings and ages; `silent`: a pod that should report did not."""
        known = [apart for apart in spacings if 0 < apart <= LONGEST_SPACING_SECONDS]
        oldest = max([age for age in ages if age <= FIRST_LOOK_SECONDS], default=0.0)
        searched_at = now if self.search and not self.first else self.searched_at
        due = searched_at is None or now - searched_at >= SEARCH_AGAIN_SECONDS
        return Outlook(max(known, default=0.0), oldest, searched_at, silent and due, first=False)


class ScrapeMemory:
    """The latest that is known of every pod's scrapes."""

    def __init__(self) -> None:
        self._known: dict[PodKey, Scrape] = {}

    def note(self, seen: Mapping[PodKey, Scrape], clock_seconds: float) -> dict[PodKey, Scrape]:
        """Take in what one tick saw; returns what is known of all pods."""
        for pod, scrape in seen.items():
            old = self._known.get(pod, scrape)
            apart = scrape.spacing_seconds
            if not apart:  # a single sample: it comes after the one that was seen last
                apart = max(old.spacing_seconds, scrape.at_seconds - old.at_seconds)
            self._known[pod] = Scrape(max(scrape.at_seconds, old.at_seconds), apart)
        self._known = {
            pod: scrape
            for pod, scrape in self._known.items()
            if abs(clock_seconds - scrape.at_seconds) <= FORGET_SECONDS
        }
        return self._known
