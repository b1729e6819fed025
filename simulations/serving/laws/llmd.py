"""The laws of llm-d: on SLO ratios and on tokens (KEDA on endpoint-picker metrics), and the deprecated saturation analyser."""

import math
from collections.abc import Sequence
from typing import Final

from simulations.serving.fleet.observe import Sample, View
from simulations.serving.laws import hpa
from simulations.serving.laws.base import Law, Parameters, Setting
from simulations.serving.laws.hpa import Behaviour
from simulations.serving.laws.space import Choice, Range, Space

_CEIL_SLACK: Final = 1e-9

SLO_DEFAULTS: Final = {
    **{name: value for name, value in hpa.DEFAULTS.items() if name != "tolerance"},
    "up_at": 0.55, "down_at": 0.40, "mean": 45.0, "latency_window": 60.0,
    "up_window": 30.0, "up_period": 60.0, "down_window": 180.0, "down_percent": 0.0, "down_pods": 1.0, "down_period": 120.0,
}  # fmt: skip
SLO_SPACE: Final[Space] = {
    **{name: field for name, field in hpa.SPACE.items() if name != "tolerance"},
    "up_at": Range(0.15, 1.2),
    "down_at": Range(0.05, 0.9),
    "mean": Choice((15.0, 30.0, 45.0, 90.0, 180.0)),
    "latency_window": Choice((30.0, 60.0, 120.0, 300.0)),
}
TOKENS_DEFAULTS: Final = {
    **hpa.DEFAULTS, "backlog_seconds": 1.5, "kv_share": 0.8, "polling": 15.0, "up_window": 0.0, "down_window": 300.0,
}  # fmt: skip
TOKENS_SPACE: Final[Space] = {
    **hpa.SPACE,
    "backlog_seconds": Range(0.1, 20.0),
    "kv_share": Range(0.03, 1.0),
    "polling": Choice((5.0, 15.0, 30.0, 60.0)),
}
WVA_DEFAULTS: Final = {"kv_limit": 0.8, "queue_limit": 5.0, "kv_spare": 0.1, "queue_spare": 3.0, "interval": 60.0}
WVA_SPACE: Final[Space] = {
    "kv_limit": Range(0.05, 0.95),
    "queue_limit": Range(1.0, 30.0),
    "kv_spare": Range(0.01, 0.5),
    "queue_spare": Range(0.5, 10.0),
    "interval": Choice((15.0, 30.0, 60.0, 120.0)),
}


class LlmdSlo:
    """llm-d's SLO law.

    s = mean over 45 s of min(max(P90 TTFT / objective, P90 TPOT / objective), 2). Above 0.55: n + ceil(n (s c / 0.55 - 1)) with
    c = ready / n as credit for pods on the way. Below 0.40: n - floor(n (1 - s / 0.40)), without credit. Windows and rates are
    the HPA's, up at most max(100 %, 4) per 60 s after 30 s, down one per 120 s after 180 s.
    """

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        self.objective = setting.objective
        self.parameters = parameters
        self._ratios: list[tuple[float, float]] = []
        self._behaviour = Behaviour(parameters)

    def wish(self, view: View) -> int:
        if view.latest is None:
            return view.replicas
        own = self.parameters
        wish = slo_step(view.replicas, view.ready, self._ratio(view), own["up_at"], own["down_at"])
        return self._behaviour.apply(view.now, view.replicas, wish)

    def _ratio(self, view: View) -> float:
        own = self.parameters
        ttft, itl = view.ttft_quantile(0.9, own["latency_window"]), view.itl_quantile(0.9, own["latency_window"])
        ratio = max((ttft or 0.0) / self.objective.ttft_seconds, (itl or 0.0) / self.objective.itl_seconds)
        if view.latest is not None and view.latest.held and not view.latest.pods:
            ratio = 2.0  # requests wait and nobody answers
        self._ratios = [(at, old) for at, old in self._ratios if view.now - at < own["mean"]]
        self._ratios.append((view.now, min(ratio, 2.0)))
        return sum(old for _, old in self._ratios) / len(self._ratios)


def slo_step(current: int, ready: int, ratio: float, up_at: float, down_at: float) -> int:
    """One step of the SLO law."""
    credited = ratio * (ready / current if current else 1.0)
    if credited > up_at:
        return current + math.ceil(current * (credited / up_at - 1) - _CEIL_SLACK)
    if ratio < min(down_at, up_at):
        return current - math.floor(current * (1 - ratio / down_at) + _CEIL_SLACK)
    return current


def backlog_tokens(sample: Sample) -> float:
    """Prompt tokens that wait or are not computed yet; a request held at the router counts as a mean one."""
    waiting = sum(pod.waiting_tokens for pod in sample.pods)
    inside = sum(pod.waiting for pod in sample.pods)
    return waiting + (sample.held * waiting / inside if inside else 0.0)


def make_slo(setting: Setting, parameters: Parameters) -> Law:
    """llm-d SLO law."""
    return LlmdSlo(setting, parameters)


def make_tokens(setting: Setting, parameters: Parameters) -> Law:
    """llm-d token law: max(ceil(backlog tokens / prefill tokens/s / 1.5 s), ceil(sum of KV shares / 0.8)).

    Its user has measured how many prompt tokens a replica computes per second: the pair's true figure is given.
    """
    speed = setting.pair.speed
    velocity = 1 / (speed.per_prompt_token_seconds + speed.base_seconds / speed.chunk_tokens)
    triggers = [
        hpa.Trigger(backlog_tokens, velocity * parameters["backlog_seconds"]),
        hpa.Trigger(lambda sample: sum(pod.kv_share for pod in sample.pods), parameters["kv_share"]),
    ]
    return hpa.ExternalHpa(triggers, parameters)


class WvaSaturation:
    """llm-d workload variant autoscaler, saturation analyser v1 (deprecated by its project in 2026).

    A replica is saturated at 80 % KV cache or five waiting requests (largest of the last minute). One replica more when
    the others have on average less than 10 % KV or three places of queue to spare; one fewer when their load, spread over
    one replica less, keeps both and at least two are not saturated. It waits while pods are on their way.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.kv_limit, self.queue_limit = parameters["kv_limit"], parameters["queue_limit"]
        self.kv_spare, self.queue_spare = parameters["kv_spare"], parameters["queue_spare"]
        self.interval_seconds = parameters["interval"]
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


def make_wva(_: Setting, parameters: Parameters) -> Law:
    """WVA saturation."""
    return WvaSaturation(parameters)
