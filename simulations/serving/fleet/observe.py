"""What a law may know: samples as a monitoring system scrapes them, and the API server's view of the pods.

Samples are taken every scrape interval and become visible `delay_seconds` later. All laws see the same ones.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import sub

from simulations.serving.engine.replica import Counters, Request
from simulations.serving.fleet.deployment import Deployment, Phase, Pod


@dataclass(frozen=True, slots=True)
class PodSample:
    """Gauges of one ready pod."""

    waiting: int
    running: int
    kv_share: float
    """KV cache in use, 0-1."""
    busy_share: float
    """Share of the time since the last scrape that the GPU ran a kernel, 0-1."""
    age_seconds: float = 0.0
    """Since it became ready."""
    step: Counters | None = None
    """Growth of the engine's counters since the last scrape; None for a pod's first."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One scrape. Counters start at 0 and grow; gauges are of the moment."""

    time: float
    pods: tuple[PodSample, ...]
    held: int
    """Requests at the router without a ready replica."""
    inside: int
    """Requests held, waiting or running."""
    arrived: int
    arrived_prompt_tokens: int
    prompt_tokens: float
    """Computed, so without those found in a prefix cache."""
    output_tokens: float
    busy_seconds: float
    request_seconds: float
    """Integral of the requests inside."""
    first_token_count: int
    finished_count: int


class Monitor:
    """Takes the samples of one deployment and answers questions on the visible ones."""

    def __init__(self, deployment: Deployment, *, delay_seconds: float) -> None:
        self.deployment = deployment
        self.delay_seconds = delay_seconds
        self.samples: list[Sample] = []
        self._times: list[float] = []

    def scrape(self) -> None:
        """Take a sample now."""
        deployment = self.deployment
        now = deployment.engine.now
        busy, prompt, output = (
            deployment.gone_busy_seconds,
            float(deployment.gone_prompt_tokens),
            float(deployment.gone_output_tokens),
        )
        pods: list[PodSample] = []
        for pod in deployment.pods:
            if pod.phase < Phase.READY:
                continue
            counters = pod.replica.read(now)
            busy, prompt, output = (
                busy + counters.busy_seconds,
                prompt + counters.prompt_tokens,
                output + counters.output_tokens,
            )
            if pod.phase is Phase.READY:
                pods.append(self._pod(pod, counters, now))
            pod.last_counters = counters
        self.samples.append(
            Sample(
                time=now,
                pods=tuple(pods),
                held=len(deployment.held),
                inside=deployment.inside,
                arrived=len(deployment.arrived),
                arrived_prompt_tokens=deployment.arrived_prompt_tokens,
                prompt_tokens=prompt,
                output_tokens=output,
                busy_seconds=busy,
                request_seconds=deployment.request_seconds_until_now(),
                first_token_count=len(deployment.first_tokens),
                finished_count=len(deployment.finished),
            )
        )
        self._times.append(now)

    def _pod(self, pod: Pod, counters: Counters, now: float) -> PodSample:
        waiting = len(pod.replica.waiting)
        last = pod.last_counters
        step = None if last is None else Counters(*map(sub, counters, last))
        span = now - (pod.ready_at if last is None else self._times[-1])
        busy = (counters if step is None else step).busy_seconds
        return PodSample(
            waiting=waiting,
            running=pod.load - waiting,
            kv_share=counters.kv_tokens / self.deployment.speed.kv_tokens,
            busy_share=min(max(busy / span, 0.0), 1.0) if span > 0 else 0.0,
            age_seconds=now - pod.ready_at,
            step=step,
        )

    def view(self) -> "View":
        """What is visible now."""
        now = self.deployment.engine.now
        return View(self, now, bisect_right(self._times, now - self.delay_seconds + 1e-9))


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
        return self._quantile(
            self.deployment.first_tokens, lambda sample: sample.first_token_count, share, seconds, _ttft
        )

    def itl_quantile(self, share: float, seconds: float) -> float | None:
        """Quantile of the mean time between tokens of the requests that finished in the window; None when none did."""
        return self._quantile(self.deployment.finished, lambda sample: sample.finished_count, share, seconds, _itl)

    def _quantile(
        self,
        requests: list[Request],
        count: Callable[[Sample], int],
        share: float,
        seconds: float,
        value: Callable[[Request], float],
    ) -> float | None:
        samples = self.window(seconds)
        if not samples:
            return None
        values = sorted(map(value, requests[count(samples[0]) if len(samples) > 1 else 0 : count(samples[-1])]))
        return values[min(math.ceil(share * len(values)), len(values)) - 1] if values else None


def _ttft(request: Request) -> float:
    return request.ttft_seconds


def _itl(request: Request) -> float:
    return request.itl_seconds
