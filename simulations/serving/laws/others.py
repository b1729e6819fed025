"""Knative KPA, AIBrix APA, the llm-d laws (WVA saturation, SLO ratio), and a fixed count."""

import math
from collections.abc import Sequence
from typing import Final

from simulations.serving.fleet.observe import Sample, View
from simulations.serving.laws.base import Law, Parameters, Setting
from simulations.serving.laws.hpa import Behaviour

_CEIL_SLACK: Final = 1e-9


class KnativeKpa:
    """Knative Serving, "Autoscaler" reference: stable mean of the concurrency over 60 s, panic over a tenth of it.

    Wishes ceil(mean / target) are clipped to [ready / 2, 1000 x ready]. Panic begins when the panic wish is at least twice
    the ready pods; in panic the larger wish counts and nothing is taken away until 60 s after the last crossing.
    """

    def __init__(self, target: float, stable_seconds: float, panic_seconds: float, initial: int) -> None:
        self.target = target
        self.stable_seconds = stable_seconds
        self.panic_seconds = panic_seconds
        self._panic_since: float | None = 0.0 if initial > 1 else None  # a restart with over one pod begins in panic
        self._panic_most = initial

    def wish(self, view: View) -> int:
        if view.latest is None:
            return view.replicas
        ready = max(view.ready, 1)
        lowest, highest = ready // 2, 1000 * ready
        stable = math.ceil(_concurrency(view, self.stable_seconds) / self.target - _CEIL_SLACK)
        panic = math.ceil(_concurrency(view, self.panic_seconds) / self.target - _CEIL_SLACK)
        if panic / ready >= 2:
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


class AibrixApa:
    """AIBrix PodAutoscaler, strategy APA: with q = mean / target, above 1.1 grow to ceil(n q), below 0.9 shrink to it.

    At most doubled or halved per step; a shrink waits for 300 s during which no larger count was wished.
    """

    def __init__(self, target: float, cooldown_seconds: float, metric: str) -> None:
        self.target = target
        self.cooldown_seconds = cooldown_seconds
        self.metric = metric
        self._wishes: list[tuple[float, int]] = []

    def wish(self, view: View) -> int:
        value = view.pod_mean(lambda pod: pod.kv_share if self.metric == "kv" else pod.running + pod.waiting)
        current = view.replicas
        wish = current if value is None else apa_step(current, value / self.target)
        if not self._wishes:
            self._wishes.append((view.now, current))
        self._wishes = [(at, old) for at, old in self._wishes if view.now - at < self.cooldown_seconds]
        self._wishes.append((view.now, wish))
        return wish if wish >= current else min(max(old for _, old in self._wishes), current)


def apa_step(current: int, ratio: float) -> int:
    """One step of the APA rule."""
    if ratio > 1.1:
        return min(math.ceil(current * ratio - _CEIL_SLACK), 2 * current)
    if ratio < 0.9:
        return max(math.ceil(current * ratio - _CEIL_SLACK), current // 2)
    return current


class WvaSaturation:
    """llm-d workload variant autoscaler, saturation analyser v1.

    A replica is saturated at 80 % KV cache or five waiting requests (largest of the last minute). One replica more when
    the others have on average less than 10 % KV or three places of queue to spare; one fewer when their load, spread over
    one replica less, keeps both and at least two are not saturated. It waits while pods are on their way.
    """

    def __init__(
        self, kv_limit: float, queue_limit: float, kv_spare: float, queue_spare: float, interval_seconds: float
    ) -> None:
        self.kv_limit = kv_limit
        self.queue_limit = queue_limit
        self.kv_spare = kv_spare
        self.queue_spare = queue_spare
        self.interval_seconds = interval_seconds
        self._acted_at = -math.inf

    def wish(self, view: View) -> int:
        if view.now - self._acted_at < self.interval_seconds - 1e-9:
            return view.replicas
        self._acted_at = view.now
        samples = view.window(60.0)
        if not samples or not samples[-1].pods or view.replicas > view.ready:
            return view.replicas
        return view.replicas + self.step(_maxima(samples))

    def step(self, pods: list[tuple[float, float]]) -> int:
        """+1, 0 or -1 for the (KV share, waiting requests) of each replica."""
        free = [(kv, queue) for kv, queue in pods if kv < self.kv_limit and queue < self.queue_limit]
        if not free:
            return 1
        count = len(free)
        kv_load, queue_load = sum(kv for kv, _ in free), sum(queue for _, queue in free)
        if self.kv_limit - kv_load / count < self.kv_spare or self.queue_limit - queue_load / count < self.queue_spare:
            return 1
        if count < 2:
            return 0
        kept = (
            self.kv_limit - kv_load / (count - 1) >= self.kv_spare
            and self.queue_limit - queue_load / (count - 1) >= self.queue_spare
        )
        return -1 if kept else 0


def _maxima(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Largest KV share and queue of each pod over the samples that saw as many pods as the newest one did."""
    count = len(samples[-1].pods)
    same = [sample.pods for sample in samples if len(sample.pods) == count]
    return [(max(pods[at].kv_share for pods in same), max(pods[at].waiting for pods in same)) for at in range(count)]


class LlmdSlo:
    """llm-d with KEDA on endpoint-picker metrics, SLO law.

    s = 45 s mean of min(max(P90 TTFT / objective, P90 TPOT / objective), 2). Above 0.55: n + ceil(n (s c / 0.55 - 1)) with
    c = ready / n as credit for pods on the way. Below 0.40: n - floor(n (1 - s / 0.40)), without credit. Up at most
    max(100 %, 4) per 60 s after 30 s; down one per 120 s after 180 s.
    """

    def __init__(self, setting: Setting, up_at: float, down_at: float) -> None:
        self.objective = setting.objective
        self.up_at, self.down_at = up_at, down_at
        self._ratios: list[tuple[float, float]] = []
        self._ups: list[tuple[float, int]] = []
        self._downs: list[tuple[float, int]] = []
        self._rates = Behaviour(down_window_seconds=0.0, period_seconds=60.0)
        self._lowered_at = -math.inf

    def wish(self, view: View) -> int:
        current, now = view.replicas, view.now
        if view.latest is None:
            return current
        ratio = self._ratio(view)
        wish = slo_step(current, view.ready, ratio, self.up_at, self.down_at)
        if not self._downs:
            self._downs.append((now, current))
        self._ups = [(at, old) for at, old in self._ups if now - at < 30.0]
        self._ups.append((now, wish))
        self._downs = [(at, old) for at, old in self._downs if now - at < 180.0]
        self._downs.append((now, wish))
        if wish > current:
            wish = max(min(old for _, old in self._ups), current)
            return self._rates.apply(now, current, wish)
        wish = min(max(old for _, old in self._downs), current)
        if wish < current:
            if now - self._lowered_at < 120.0:
                return current
            self._lowered_at = now
            return current - 1
        return current

    def _ratio(self, view: View) -> float:
        ttft, itl = view.ttft_quantile(0.9, 60.0), view.itl_quantile(0.9, 60.0)
        ratio = max((ttft or 0.0) / self.objective.ttft_seconds, (itl or 0.0) / self.objective.itl_seconds)
        if view.latest is not None and view.latest.held and not view.latest.pods:
            ratio = 2.0  # requests wait and nobody answers
        self._ratios = [(at, old) for at, old in self._ratios if view.now - at < 45.0]
        self._ratios.append((view.now, min(ratio, 2.0)))
        return sum(old for _, old in self._ratios) / len(self._ratios)


def slo_step(current: int, ready: int, ratio: float, up_at: float, down_at: float) -> int:
    """One step of the SLO law."""
    credited = ratio * (ready / current if current else 1.0)
    if credited > up_at:
        return current + math.ceil(current * (credited / up_at - 1) - _CEIL_SLACK)
    if ratio < down_at:
        return current - math.floor(current * (1 - ratio / down_at) + _CEIL_SLACK)
    return current


class Static:
    """A fixed number of replicas."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas

    def wish(self, view: View) -> int:
        return self.replicas


def make_kpa(setting: Setting, parameters: Parameters) -> Law:
    """Knative KPA on concurrency."""
    return KnativeKpa(
        parameters["target"],
        parameters["stable"],
        max(parameters["stable"] / 10, setting.scrape_seconds),
        setting.initial_replicas,
    )


def make_apa_kv(_: Setting, parameters: Parameters) -> Law:
    """AIBrix APA on the KV cache in use."""
    return AibrixApa(parameters["target"], parameters["cooldown"], "kv")


def make_apa_running(_: Setting, parameters: Parameters) -> Law:
    """AIBrix APA on requests in the engine."""
    return AibrixApa(parameters["target"], parameters["cooldown"], "running")


def make_wva(_: Setting, parameters: Parameters) -> Law:
    """WVA saturation."""
    return WvaSaturation(
        parameters["kv_limit"],
        parameters["queue_limit"],
        parameters["kv_spare"],
        parameters["queue_spare"],
        parameters["interval"],
    )


def make_slo(setting: Setting, parameters: Parameters) -> Law:
    """llm-d SLO law."""
    return LlmdSlo(setting, parameters["up_at"], parameters["up_at"] * parameters["down_share"])
