"""What a Prometheus holds of one deployment's pods, as `autoscaler.observation` reads it: what Headroom's law sees.

Each pod is scraped at a moment of its own within the interval, from when it is ready, and a new pod has no rates before its
second scrape. Samples go back as far as the daemon's queries do. Rates are those of `autoscaler.observation.series`, worked out
for all counters of a pod at once, since no counter restarts here.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple

from autoscaler.observation.answers import Snapshot
from autoscaler.observation.series import PodKey, Rate, Sample
from headroom.domain.engines import VLLM, Metric
from simulations.serving.engine.exports import Counters, Histogram, Histograms
from simulations.serving.fleet.deployment import Deployment
from simulations.serving.fleet.pods import Phase, Pod

_KEPT: Final = 16
"""Samples kept of a pod."""


class _Scrape(NamedTuple):
    time: float
    waiting: int
    running: int
    kv_room: int
    """Tokens that the KV cache of this pod's card holds."""
    counters: Counters
    buckets: tuple[tuple[float, ...], ...]
    """Counts of each of `_HISTOGRAMS`, by bucket."""
    prefill_seconds: float
    """From the start of requests to their first tokens, summed over those that ended."""


@dataclass(frozen=True, slots=True)
class Windows:
    """How far the daemon's queries look back."""

    short_seconds: float
    long_seconds: float
    lookback_seconds: float


class Scrapes:
    """Scrapes the pods of one deployment that report."""

    def __init__(
        self,
        deployment: Deployment,
        *,
        interval_seconds: float,
        seed: int,
        silent: Callable[[int], bool] = lambda order: False,
    ) -> None:
        self.deployment = deployment
        self.interval_seconds = interval_seconds
        self.seed = seed
        self.silent = silent
        self._of: dict[int, deque[_Scrape]] = {}
        deployment.observed = True
        deployment.on_ready = self._begin

    def _begin(self, pod: Pod) -> None:
        if self.silent(pod.order):
            return
        self._of[pod.order] = deque(maxlen=_KEPT)
        moment = random.Random(f"{self.seed}/scrape/{pod.order}").random() * self.interval_seconds
        engine = self.deployment.engine
        wait = (moment - engine.now) % self.interval_seconds
        engine.after(wait, self._scrape, pod)

    def _scrape(self, pod: Pod) -> None:
        if pod.phase is Phase.GONE:
            self._of.pop(pod.order, None)
            return
        replica, engine = pod.replica, self.deployment.engine
        histograms = replica.histograms
        assert histograms is not None
        self._of[pod.order].append(
            _Scrape(
                engine.now,
                len(replica.waiting),
                replica.running_count,
                replica.speed.kv_tokens,
                replica.read(engine.now),
                tuple(tuple(of(histograms).counts) for _, _, of in _HISTOGRAMS),
                histograms.prefill.total,
            )
        )
        engine.after(self.interval_seconds, self._scrape, pod)

    def snapshot(self, clock_seconds: float, windows: Windows, key: Callable[[Pod], PodKey]) -> Snapshot:
        """What the daemon's queries answer now. `clock_seconds` is what Prometheus' clock shows, `key` names a pod."""
        snapshot = Snapshot(clock_seconds)
        offset = clock_seconds - self.deployment.engine.now
        for pod in self.deployment.pods:
            series = self._of.get(pod.order)
            if series:
                self._add(snapshot, key(pod), series, windows, offset)
        return snapshot

    def _add(self, snapshot: Snapshot, key: PodKey, series: deque[_Scrape], windows: Windows, offset: float) -> None:
        now = self.deployment.engine.now
        newest = series[-1]
        if newest.time < now - windows.lookback_seconds:
            return
        at = newest.time + offset
        kv = newest.counters.kv_tokens / newest.kv_room
        for metric, value in ((VLLM.waiting, newest.waiting), (VLLM.running, newest.running), (VLLM.kv_cache, kv)):
            snapshot.gauges.setdefault(metric.names[0], {})[key] = Sample(at, value)
        kept = [scrape for scrape in series if scrape.time > now - windows.lookback_seconds]
        if len(kept) < 2:
            return
        short, long = _base(kept, windows.short_seconds), _base(kept, windows.long_seconds)
        for name, of in _CHANGES.items():
            change = Rate(at, _slope(of(newest), of(short), newest, short), _slope(of(newest), of(long), newest, long))
            snapshot.changes.setdefault(name, {})[key] = change
        prefill = VLLM.prefill_seconds.names[0]
        snapshot.counters.setdefault(prefill, {})[key] = Rate(
            at,
            _slope(newest.prefill_seconds, short.prefill_seconds, newest, short),
            _slope(newest.prefill_seconds, long.prefill_seconds, newest, long),
        )
        for (kind, metric, _), edges, counts, before in zip(
            _HISTOGRAMS, _EDGES, newest.buckets, long.buckets, strict=True
        ):
            rates = accumulate(_slope(a, b, newest, long) for a, b in zip(counts, before, strict=True))
            of_name = snapshot.buckets.setdefault(kind, {}).setdefault(metric.names[0], {})
            of_name[key] = dict(zip(edges, rates, strict=True))
        for name, index in _COUNTERS.items():
            value = newest.counters[index]
            snapshot.counters.setdefault(name, {})[key] = Rate(
                at,
                _slope(value, short.counters[index], newest, short),
                _slope(value, long.counters[index], newest, long),
            )


def _base(kept: Sequence[_Scrape], seconds: float) -> _Scrape:
    """The newest scrape at least `seconds` before the last one, else the oldest."""
    end = kept[-1].time
    return next((scrape for scrape in reversed(kept[:-1]) if end - scrape.time >= seconds - 1e-6), kept[0])


def _slope(value: float, before: float, newest: _Scrape, base: _Scrape) -> float:
    return (value - before) / (newest.time - base.time)


_CHANGES: Final[Mapping[str, Callable[[_Scrape], float]]] = {
    VLLM.waiting.names[0]: lambda scrape: scrape.waiting,
    VLLM.running.names[0]: lambda scrape: scrape.running,
}
_HISTOGRAMS: Final[Sequence[tuple[str, Metric, Callable[[Histograms], Histogram]]]] = (
    ("timeToFirstToken", VLLM.time_to_first_token, lambda histograms: histograms.first_token),
    ("perOutputToken", VLLM.per_output_token, lambda histograms: histograms.per_output_token),
    ("requestLatency", VLLM.request, lambda histograms: histograms.request),
    ("promptLength", VLLM.prompt_length, lambda histograms: histograms.prompt_tokens),
)
"""Query of the daemon's, what it asks for, and what the simulated engine has of it."""
_EDGES: Final = tuple((*of(Histograms()).edges, math.inf) for _, _, of in _HISTOGRAMS)
_FIELDS: Final = {name: index for index, name in enumerate(Counters._fields)}
_COUNTERS: Final[Mapping[str, int]] = {
    VLLM.prompt_tokens.names[0]: _FIELDS["prompt_tokens"],
    VLLM.output_tokens.names[0]: _FIELDS["output_tokens"],
    VLLM.iterations.names[0]: _FIELDS["iterations"],
    VLLM.token_seconds.names[0]: _FIELDS["gap_seconds"],
    VLLM.token_count.names[0]: _FIELDS["gaps"],
    VLLM.finished.names[0]: _FIELDS["finished"],
    VLLM.ended_prompt_tokens.names[0]: _FIELDS["ended_prompt_tokens"],
    VLLM.ended_output_tokens.names[0]: _FIELDS["ended_output_tokens"],
    VLLM.cached_tokens.names[0]: _FIELDS["cached_tokens"],
}
