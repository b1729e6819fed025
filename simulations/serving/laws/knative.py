"""Knative Serving's autoscaler (KPA)."""

import math
from typing import Final

from simulations.serving.fleet.observe import View
from simulations.serving.laws.base import Law, Parameters, Setting
from simulations.serving.laws.space import Choice, Range, Space

CEIL_SLACK: Final = 1e-9

DEFAULTS: Final = {
    "target": 70.0, "stable": 60.0, "panic_percent": 10.0, "panic_threshold": 200.0, "max_up_rate": 1000.0, "max_down_rate": 2.0,
    "down_delay": 0.0,
}  # fmt: skip
SPACE: Final[Space] = {
    "target": Range(2.0, 150.0),
    "stable": Range(30.0, 3600.0),
    "panic_percent": Choice((5.0, 10.0, 25.0, 50.0, 100.0)),
    "panic_threshold": Choice((110.0, 150.0, 200.0, 400.0, 1000.0)),
    "max_up_rate": Choice((1.5, 2.0, 10.0, 1000.0)),
    "max_down_rate": Choice((1.1, 1.25, 1.5, 2.0)),
    "down_delay": Choice((0.0, 120.0, 300.0, 900.0, 1800.0, 3600.0)),
}
"""Annotations and configuration keys: target, window, panic-window-percentage, panic-threshold-percentage, max-scale-up-rate,
max-scale-down-rate, scale-down-delay (at most an hour)."""


class KnativeKpa:
    """Knative Serving, "Autoscaler" reference: a stable mean of the concurrency, and a panic mean over a share of its window.

    Wishes ceil(mean / target) are clipped to [ready / down rate, ready x up rate]. Panic begins when the panic wish is at least
    the threshold's share of the ready pods; in panic the larger wish counts and nothing is taken away until a stable window after
    the last crossing. With a scale-down delay the highest wish of that time counts.
    """

    def __init__(self, parameters: Parameters, scrape_seconds: float, initial: int) -> None:
        self.target = parameters["target"]
        self.stable_seconds = parameters["stable"]
        self.panic_seconds = max(self.stable_seconds * parameters["panic_percent"] / 100, scrape_seconds)
        self.panic_share = parameters["panic_threshold"] / 100
        self.up_rate, self.down_rate = parameters["max_up_rate"], parameters["max_down_rate"]
        self.down_delay_seconds = parameters["down_delay"]
        self._panic_since: float | None = 0.0 if initial > 1 else None  # a restart with over one pod begins in panic
        self._panic_most = initial
        self._wishes: list[tuple[float, int]] = []

    def wish(self, view: View) -> int:
        if view.latest is None:
            return view.replicas
        wish = self._wish(view)
        if self.down_delay_seconds:
            self._wishes = [(at, old) for at, old in self._wishes if view.now - at < self.down_delay_seconds]
            self._wishes.append((view.now, wish))
            wish = max(old for _, old in self._wishes)
        return wish

    def _wish(self, view: View) -> int:
        ready = max(view.ready, 1)
        lowest, highest = math.floor(ready / self.down_rate), math.ceil(self.up_rate * ready)
        stable = math.ceil(_concurrency(view, self.stable_seconds) / self.target - CEIL_SLACK)
        panic = math.ceil(_concurrency(view, self.panic_seconds) / self.target - CEIL_SLACK)
        if panic / ready >= self.panic_share:
            if self._panic_since is None:
                self._panic_most = 0
            self._panic_since = view.now
        elif self._panic_since is not None and view.now - self._panic_since > self.stable_seconds:
            self._panic_since = None
        stable = min(max(stable, lowest), highest)
        if self._panic_since is None:
            return stable
        panic = min(max(panic, lowest), highest)
        self._panic_most = max(self._panic_most, stable, panic, view.replicas)
        return self._panic_most


def _concurrency(view: View, seconds: float) -> float:
    """Mean of the requests inside over the window, from the integral that the queue proxies and the activator report."""
    samples = view.window(seconds)
    if len(samples) < 2:
        return float(samples[-1].inside)
    return (samples[-1].request_seconds - samples[0].request_seconds) / (samples[-1].time - samples[0].time)


def make(setting: Setting, parameters: Parameters) -> Law:
    """Knative KPA on concurrency."""
    return KnativeKpa(parameters, setting.scrape_seconds, setting.initial_replicas)
