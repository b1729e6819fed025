"""What rivals may know: samples as a monitoring system scrapes them, and the API server's view of the pods.

All replicas are sampled at once, which is kinder than a real Prometheus (each target has its own moment, see `scrapes`).
Samples become visible `delay_seconds` later. All laws but Headroom's see the same ones.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import sub
from typing import Final

from simulations.serving.engine.exports import Counters
from simulations.serving.fleet.deployment import Deployment
from simulations.serving.fleet.pods import Phase, Pod

_KEPT: Final = 240
"""Samples kept: an hour at 15 s, longer than any law looks back."""


@dataclass(frozen=True, slots=True)
class PodSample:
    """Gauges of one ready pod."""

    waiting: int
    running: int
    kv_share: float
    """KV cache in use, 0-1."""
    busy_share: float
    """Share of the time since the last scrape that the GPU ran a kernel, 0-1."""
    waiting_tokens: int = 0
    """Prompt tokens that wait or are not computed yet."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One scrape. Counters start at 0 and grow; gauges are of the moment."""

    time: float
    pods: tuple[PodSample, ...]
    """Of the pods that report."""
    held: int
    """Requests at the router without a ready replica."""
    inside: int
    """Requests held, waiting or running, as the router counts them."""
    arrived: int
    request_seconds: float
    """Integral of the requests inside."""
    first_token_count: int
    finished_count: int


class Monitor:
    """Takes the samples of one deployment and answers questions on the visible ones."""

    def __init__(
        self, deployment: Deployment, *, delay_seconds: float, silent: Callable[[int], bool] = lambda order: False
    ) -> None:
        self.deployment = deployment
        self.delay_seconds = delay_seconds
        self.silent = silent
        """Order of the start -> whether the pod never reports."""
        self.samples: list[Sample] = []
        self._times: list[float] = []

    def scrape(self) -> None:
        """Take a sample now."""
        deployment = self.deployment
        now = deployment.engine.now
        pods = [
            self._pod(pod, now) for pod in deployment.pods if pod.phase is Phase.READY and not self.silent(pod.order)
        ]
        served = deployment.served
        if len(self.samples) >= 2 * _KEPT:
            del self.samples[:_KEPT], self._times[:_KEPT]
        self.samples.append(
            Sample(
                time=now,
                pods=tuple(pods),
                held=len(deployment.held),
                inside=deployment.inside,
                arrived=served.arrived,
                request_seconds=deployment.request_seconds_until_now(),
                first_token_count=len(served.ttft),
                finished_count=served.finished,
            )
        )
        self._times.append(now)

    def _pod(self, pod: Pod, now: float) -> PodSample:
        counters, last, replica = pod.replica.read(now), pod.last_counters, pod.replica
        pod.last_counters = counters
        waiting = len(replica.waiting)
        step = counters if last is None else Counters(*map(sub, counters, last))
        span = now - (pod.ready_at if last is None else self._times[-1])
        return PodSample(
            waiting=waiting,
            running=pod.load - waiting,
            kv_share=counters.kv_tokens / replica.speed.kv_tokens,
            busy_share=min(max(step.busy_seconds / span, 0.0), 1.0) if span > 0 else 0.0,
            waiting_tokens=sum(request.prompt_tokens for request in replica.waiting)
            + sum(entry.lacking for entry in replica.prefilling),
        )

    def view(self) -> "View":
        """What is visible now."""
        now = self.deployment.engine.now
        return View(self, now, bisect_right(self._times, now - self.delay_seconds + 1e-9))

    def newest(self) -> "View":
        """What will be visible once the newest sample is: for records, not for laws."""
        return View(self, self.deployment.engine.now, len(self.samples))


class View:
    """The visible samples, and the pods as the API server knows them (without delay)."""

    def __init__(self, monitor: Monitor, now: float, visible: int) -> None:
        self.now = now
        self.deployment = monitor.deployment
        self._samples = monitor.samples
        self._visible = visible
        self.replicas = monitor.deployment.replicas
        self.ready = len(monitor.deployment.ready)

    @property
    def latest(self) -> Sample | None:
        """The newest visible sample, None before the first."""
        return self._samples[self._visible - 1] if self._visible else None

    def ages(self, phase: Phase) -> tuple[float, ...]:
        """Seconds since the creation of the pods in a phase."""
        return tuple(self.now - pod.created for pod in self.deployment.pods if pod.phase is phase)

    def window(self, seconds: float) -> Sequence[Sample]:
        """Visible samples of the last `seconds` before the newest one, oldest first; at least the newest."""
        newest = self.latest
        if newest is None:
            return ()
        first = self._visible - 1
        while first > 0 and self._samples[first - 1].time > newest.time - seconds - 1e-9:
            first -= 1
        return self._samples[first : self._visible]

    def rate(self, counter: Callable[[Sample], float], seconds: float) -> float:
        """Growth of a counter per second over the window; 0 with fewer than two samples."""
        samples = self.window(seconds)
        if len(samples) < 2:
            return 0.0
        span = samples[-1].time - samples[0].time
        return (counter(samples[-1]) - counter(samples[0])) / span

    def pod_mean(self, gauge: Callable[[PodSample], float]) -> float | None:
        """Mean of a gauge over the pods of the newest sample; None when no pod reports."""
        newest = self.latest
        if newest is None or not newest.pods:
            return None
        return sum(map(gauge, newest.pods)) / len(newest.pods)

    def ttft_quantile(self, share: float, seconds: float) -> float | None:
        """Quantile of the time to first token of those who got it in the window; None when nobody did."""
        return self._quantile(self.deployment.served.ttft, lambda sample: sample.first_token_count, share, seconds)

    def itl_quantile(self, share: float, seconds: float) -> float | None:
        """Quantile of the mean time between tokens of the requests that finished in the window; None when none did."""
        return self._quantile(self.deployment.served.inter_token, lambda sample: sample.finished_count, share, seconds)

    def _quantile(
        self, values: Sequence[float], count: Callable[[Sample], int], share: float, seconds: float
    ) -> float | None:
        samples = self.window(seconds)
        if not samples:
            return None
        ordered = sorted(values[count(samples[0]) if len(samples) > 1 else 0 : count(samples[-1])])
        return ordered[min(math.ceil(share * len(ordered)), len(ordered)) - 1] if ordered else None
