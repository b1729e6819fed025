"""AIBrix PodAutoscaler, strategy APA."""

import math
from typing import Final

from simulations.serving.fleet.observe import View
from simulations.serving.laws.base import Law, Parameters, Setting
from simulations.serving.laws.space import Choice, Range, Space

_CEIL_SLACK: Final = 1e-9

DEFAULTS: Final = {
    "target": 0.5, "up_tolerance": 0.1, "down_tolerance": 0.1, "max_up_rate": 2.0, "max_down_rate": 2.0,
    "up_cooldown": 0.0, "down_cooldown": 300.0,
}  # fmt: skip
SPACE: Final[Space] = {
    "target": Range(0.02, 0.95),
    "up_tolerance": Choice((0.0, 0.05, 0.1, 0.2, 0.5)),
    "down_tolerance": Choice((0.0, 0.05, 0.1, 0.2, 0.5)),
    "max_up_rate": Choice((1.25, 1.5, 2.0, 4.0, 10.0)),
    "max_down_rate": Choice((1.1, 1.25, 1.5, 2.0)),
    "up_cooldown": Choice((0.0, 30.0, 60.0)),
    "down_cooldown": Range(15.0, 3600.0),
}


class AibrixApa:
    """With q = mean / target: above 1 + tolerance grow to ceil(n q), below 1 - tolerance shrink to it.

    At most times the up rate, at least over the down rate. A shrink waits for a cooldown during which no larger count was wished
    (in its source the window's smallest wish counts, which does not damp; what its documentation says is done here), a growth for
    one during which no smaller count was.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self._wishes: list[tuple[float, int]] = []

    def wish(self, view: View) -> int:
        own = self.parameters
        value = view.pod_mean(lambda pod: pod.kv_share)
        current, now = view.replicas, view.now
        wish = current if value is None else apa_step(current, value / own["target"], own)
        if not self._wishes:
            self._wishes.append((now, current))
        longest = max(own["up_cooldown"], own["down_cooldown"])
        self._wishes = [(at, old) for at, old in self._wishes if now - at < longest]
        self._wishes.append((now, wish))
        if wish >= current:
            return max(min(self._within(now, own["up_cooldown"])), current)
        return min(max(self._within(now, own["down_cooldown"])), current)

    def _within(self, now: float, seconds: float) -> list[int]:
        return [wish for at, wish in self._wishes if now - at < seconds] or [self._wishes[-1][1]]


def apa_step(current: int, ratio: float, parameters: Parameters = DEFAULTS) -> int:
    """One step of the APA rule."""
    if ratio > 1 + parameters["up_tolerance"]:
        return min(math.ceil(current * ratio - _CEIL_SLACK), math.ceil(parameters["max_up_rate"] * current))
    if ratio < 1 - parameters["down_tolerance"]:
        return max(math.ceil(current * ratio - _CEIL_SLACK), math.floor(current / parameters["max_down_rate"]))
    return current


def make_kv(_: Setting, parameters: Parameters) -> Law:
    """AIBrix APA on the KV cache in use."""
    return AibrixApa(parameters)
