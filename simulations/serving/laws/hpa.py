"""Kubernetes HPA v2, and KEDA which drives it.

Rule (Kubernetes documentation, "Horizontal Pod Autoscaling"): wanted = ceil(current x value / target), no move while the
ratio is within the tolerance of 1. Pods that are not ready count as 0 % when growing; when that turns the ratio round, no move.
An external metric with an average target asks for ceil(total / target); of several metrics the largest wish counts. `behavior`
has a window and rate policies for each direction.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from autoscaler.law.rates import Move, RatePolicy, limit_down, limit_up, remember_move
from simulations.serving.fleet.observe import PodSample, Sample, View
from simulations.serving.laws.base import Law, Parameters, Setting
from simulations.serving.laws.space import Choice, Range, Space

_CPU_BUSY_CORES, _CPU_IDLE_CORES, _CPU_REQUEST_CORES = 1.1, 0.1, 4.0  # an engine's scheduling loop fills about one core

DEFAULTS: Final = {
    "tolerance": 0.1,
    "up_window": 0.0, "up_percent": 100.0, "up_pods": 4.0, "up_period": 15.0,
    "down_window": 300.0, "down_percent": 100.0, "down_pods": 0.0, "down_period": 15.0,
}  # fmt: skip
"""`spec.behavior` as Kubernetes fills it in; 0 pods or percent: no such policy."""

SPACE: Final[Space] = {
    "tolerance": Choice((0.0, 0.02, 0.05, 0.1, 0.2)),
    "up_window": Choice((0.0, 15.0, 30.0, 60.0, 120.0)),
    "up_percent": Choice((25.0, 50.0, 100.0, 200.0, 400.0)),
    "up_pods": Choice((1.0, 2.0, 4.0, 8.0, 16.0)),
    "up_period": Choice((15.0, 30.0, 60.0)),
    "down_window": Range(15.0, 3600.0),
    "down_percent": Choice((0.0, 10.0, 25.0, 50.0, 100.0)),
    "down_pods": Choice((1.0, 2.0, 4.0)),
    "down_period": Choice((15.0, 30.0, 60.0, 120.0, 300.0)),
}
"""All fields of `spec.behavior` that a user can set."""


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of `spec.behavior`; selectPolicy Max."""

    window_seconds: float
    policies: tuple[RatePolicy, ...]


class Behaviour:
    """`spec.behavior` at work."""

    def __init__(self, parameters: Parameters) -> None:
        self.up, self.down = direction(parameters, "up"), direction(parameters, "down")
        self._wishes: list[tuple[float, int]] = []
        self._moves: tuple[Move, ...] = ()

    def apply(self, now: float, current: int, wish: int) -> int:
        """The wish after windows and rates."""
        if not self._wishes:
            self._wishes.append((now, current))  # the controller records the count it finds before its first wish
        longest = max(self.up.window_seconds, self.down.window_seconds)
        self._wishes = [(at, old) for at, old in self._wishes if now - at <= longest]
        self._wishes.append((now, wish))
        allowed = current
        if wish > current:
            lowest = min(self._within(now, self.up.window_seconds))
            allowed = limit_up(current, max(lowest, current), self._moves, self.up.policies, True, now)
        elif wish < current:
            highest = max(self._within(now, self.down.window_seconds))
            allowed = limit_down(current, min(highest, current), self._moves, self.down.policies, True, now)
        self._moves = remember_move(self._moves, now, allowed - current, 1800.0)
        return allowed

    def _within(self, now: float, seconds: float) -> list[int]:
        return [wish for at, wish in self._wishes if now - at < seconds] or [self._wishes[-1][1]]


def direction(parameters: Parameters, which: str) -> Direction:
    """`up` or `down` of the parameters."""
    policies = (
        RatePolicy(pods, int(parameters[f"{which}_{name}"]), parameters[f"{which}_period"])
        for pods, name in ((False, "percent"), (True, "pods"))
        if parameters[f"{which}_{name}"] > 0
    )
    return Direction(parameters[f"{which}_window"], tuple(policies))


def pods_metric_wish(values: Sequence[float], unready: int, current: int, target: float, tolerance: float = 0.1) -> int:
    """Replicas for a per-pod metric: `values` of the ready pods; see the module's rule."""
    if not values:
        return current
    ratio = sum(values) / len(values) / target
    if unready and ratio > 1:
        count = len(values) + unready
        rebased = sum(values) / count / target
        if rebased < 1 or abs(rebased - 1) <= tolerance:
            return current
        return max(math.ceil(rebased * count - 1e-9), current)
    if abs(ratio - 1) <= tolerance:
        return current
    return math.ceil(ratio * len(values) - 1e-9)


def external_wish(total: float, current: int, target: float, tolerance: float = 0.1) -> int:
    """Replicas for an external metric with an average target."""
    if current and abs(total / (target * current) - 1) <= tolerance:
        return current
    return math.ceil(total / target - 1e-9)


class PodsMetricHpa:
    """HPA on a metric of the pods."""

    def __init__(self, gauge: Callable[[PodSample], float], parameters: Parameters) -> None:
        self.gauge = gauge
        self.target, self.tolerance = parameters["target"], parameters["tolerance"]
        self.behaviour = Behaviour(parameters)

    def wish(self, view: View) -> int:
        newest = view.latest
        values = [self.gauge(pod) for pod in newest.pods] if newest else []
        unready = max(view.replicas - view.ready, 0)
        wish = pods_metric_wish(values, unready, view.replicas, self.target, self.tolerance)
        return self.behaviour.apply(view.now, view.replicas, wish)


@dataclass(frozen=True, slots=True)
class Trigger:
    """One trigger of a ScaledObject: a total and its target per replica."""

    total: Callable[[Sample], float]
    target: float


class ExternalHpa:
    """HPA on totals, as KEDA sets it up; the totals are polled at KEDA's own interval."""

    def __init__(self, triggers: Sequence[Trigger], parameters: Parameters) -> None:
        self.triggers = triggers
        self.polling_seconds = parameters["polling"]
        self.tolerance = parameters["tolerance"]
        self.behaviour = Behaviour(parameters)
        self._polled_at = -math.inf
        self._values: list[float] = []

    def wish(self, view: View) -> int:
        newest = view.latest
        if newest and view.now - self._polled_at >= self.polling_seconds - 1e-9:
            self._polled_at, self._values = view.now, [trigger.total(newest) for trigger in self.triggers]
        if not self._values:
            return view.replicas  # no metric yet: the controller holds
        current = view.replicas
        wish = max(
            external_wish(value, current, trigger.target, self.tolerance)
            for value, trigger in zip(self._values, self.triggers, strict=True)
        )
        return self.behaviour.apply(view.now, current, wish)


def cpu_percent(pod: PodSample) -> float:
    """CPU of a model server as a share of its request: one core polls while the GPU works, whatever the load."""
    return 100 * (_CPU_IDLE_CORES + (_CPU_BUSY_CORES - _CPU_IDLE_CORES) * pod.busy_share) / _CPU_REQUEST_CORES


def waiting(sample: Sample) -> float:
    """Requests that wait, at the router and in the engines."""
    return sample.held + sum(pod.waiting for pod in sample.pods)


def make_cpu(_: Setting, parameters: Parameters) -> Law:
    """HPA on CPU utilisation."""
    return PodsMetricHpa(cpu_percent, parameters)


def make_gpu(_: Setting, parameters: Parameters) -> Law:
    """HPA on GPU utilisation (DCGM_FI_DEV_GPU_UTIL: share of time that a kernel ran)."""
    return PodsMetricHpa(lambda pod: 100 * pod.busy_share, parameters)


def make_keda_queue(_: Setting, parameters: Parameters) -> Law:
    """KEDA on waiting requests, router included."""
    return ExternalHpa([Trigger(waiting, parameters["target"])], parameters)


def make_keda_inside(_: Setting, parameters: Parameters) -> Law:
    """KEDA on requests inside: running and waiting, router included."""
    return ExternalHpa([Trigger(lambda sample: sample.inside, parameters["target"])], parameters)


def make_keda_epp(_: Setting, parameters: Parameters) -> Law:
    """KEDA on the endpoint picker's two metrics: requests in its queue, and requests running."""
    queue = Trigger(waiting, parameters["queue_target"])
    running = Trigger(lambda sample: sum(pod.running for pod in sample.pods), parameters["running_target"])
    return ExternalHpa([queue, running], parameters)
