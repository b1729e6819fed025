"""Kubernetes HPA v2, and KEDA which drives it.

Rule (Kubernetes documentation, "Horizontal Pod Autoscaling"): wanted = ceil(current x value / target), no move while the
ratio is within 10 % of 1. Pods that are not ready count as 0 % when growing; when that turns the ratio round, no move.
An external metric with an average target asks for ceil(total / target). Up: no window, at most the larger of 100 % and four
pods per 15 s. Down: the highest wish of the last 300 s, at most 100 % per 15 s.
"""

import math
from collections.abc import Callable
from typing import Final

from simulations.serving.fleet.observe import PodSample, Sample, View
from simulations.serving.laws.base import Law, Parameters, Setting

TOLERANCE: Final = 0.1
_CPU_BUSY_CORES, _CPU_IDLE_CORES, _CPU_REQUEST_CORES = 1.1, 0.1, 4.0  # an engine's scheduling loop fills about one core


class Behaviour:
    """The stabilisation windows and rate limits of `spec.behavior` with their defaults."""

    def __init__(
        self,
        *,
        down_window_seconds: float = 300.0,
        up_percent: float = 100.0,
        up_pods: int = 4,
        period_seconds: float = 15.0,
    ) -> None:
        self.down_window_seconds = down_window_seconds
        self.up_percent = up_percent
        self.up_pods = up_pods
        self.period_seconds = period_seconds
        self._wishes: list[tuple[float, int]] = []
        self._raises: list[tuple[float, int]] = []

    def apply(self, now: float, current: int, wish: int) -> int:
        """The wish after window and rates."""
        if not self._wishes:
            self._wishes.append((now, current))  # the controller records the count it finds before its first wish
        self._wishes = [(at, old) for at, old in self._wishes if now - at < self.down_window_seconds]
        self._wishes.append((now, wish))
        if wish < current:
            wish = min(max(old for _, old in self._wishes), current)
        if wish > current:
            self._raises = [(at, by) for at, by in self._raises if now - at < self.period_seconds]
            start = current - sum(by for _, by in self._raises)
            limit = max(math.ceil(start * (1 + self.up_percent / 100)), start + self.up_pods)
            wish = max(min(wish, limit), current)
            if wish > current:
                self._raises.append((now, wish - current))
        return wish


def pods_metric_wish(values: list[float], unready: int, current: int, target: float) -> int:
    """Replicas for a per-pod metric: `values` of the ready pods; see the module's rule."""
    if not values:
        return current
    ratio = sum(values) / len(values) / target
    if unready and ratio > 1:
        count = len(values) + unready
        rebased = sum(values) / count / target
        if rebased < 1 or abs(rebased - 1) <= TOLERANCE:
            return current
        return max(math.ceil(rebased * count - 1e-9), current)
    if abs(ratio - 1) <= TOLERANCE:
        return current
    return math.ceil(ratio * len(values) - 1e-9)


def external_wish(total: float, current: int, target: float) -> int:
    """Replicas for an external metric with an average target."""
    if current and abs(total / (target * current) - 1) <= TOLERANCE:
        return current
    return math.ceil(total / target - 1e-9)


class PodsMetricHpa:
    """HPA on a metric of the pods."""

    def __init__(self, gauge: Callable[[PodSample], float], target: float, down_window_seconds: float) -> None:
        self.gauge = gauge
        self.target = target
        self.behaviour = Behaviour(down_window_seconds=down_window_seconds)

    def wish(self, view: View) -> int:
        newest = view.latest
        values = [self.gauge(pod) for pod in newest.pods] if newest else []
        unready = max(view.replicas - view.ready, 0)
        return self.behaviour.apply(
            view.now, view.replicas, pods_metric_wish(values, unready, view.replicas, self.target)
        )


class ExternalHpa:
    """HPA on a total, as KEDA sets it up; the total is polled at KEDA's own interval."""

    def __init__(
        self, total: Callable[[Sample], float], target: float, down_window_seconds: float, polling_seconds: float
    ) -> None:
        self.total = total
        self.target = target
        self.polling_seconds = polling_seconds
        self.behaviour = Behaviour(down_window_seconds=down_window_seconds)
        self._polled_at = -math.inf
        self._value = 0.0

    def wish(self, view: View) -> int:
        newest = view.latest
        if newest and view.now - self._polled_at >= self.polling_seconds - 1e-9:
            self._polled_at, self._value = view.now, self.total(newest)
        if self._polled_at == -math.inf:
            return view.replicas  # no metric yet: the controller holds
        return self.behaviour.apply(view.now, view.replicas, external_wish(self._value, view.replicas, self.target))


def cpu_percent(pod: PodSample) -> float:
    """CPU of a model server as a share of its request: one core polls while the GPU works, whatever the load."""
    return 100 * (_CPU_IDLE_CORES + (_CPU_BUSY_CORES - _CPU_IDLE_CORES) * pod.busy_share) / _CPU_REQUEST_CORES


def make_cpu(_: Setting, parameters: Parameters) -> Law:
    """HPA on CPU utilisation."""
    return PodsMetricHpa(cpu_percent, parameters["target"], parameters["down_window"])


def make_gpu(_: Setting, parameters: Parameters) -> Law:
    """HPA on GPU utilisation (DCGM_FI_DEV_GPU_UTIL: share of time that a kernel ran)."""
    return PodsMetricHpa(lambda pod: 100 * pod.busy_share, parameters["target"], parameters["down_window"])


def make_running(_: Setting, parameters: Parameters) -> Law:
    """HPA on requests in the engine, running and waiting."""
    return PodsMetricHpa(lambda pod: pod.waiting + pod.running, parameters["target"], parameters["down_window"])


def make_keda_queue(_: Setting, parameters: Parameters) -> Law:
    """KEDA on waiting requests, router included."""
    return ExternalHpa(
        lambda sample: sample.held + sum(pod.waiting for pod in sample.pods),
        parameters["target"],
        parameters["down_window"],
        parameters["polling"],
    )


def make_keda_inside(_: Setting, parameters: Parameters) -> Law:
    """KEDA on requests inside: running and waiting, router included."""
    return ExternalHpa(
        lambda sample: sample.inside, parameters["target"], parameters["down_window"], parameters["polling"]
    )
