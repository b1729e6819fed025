"""One target's Observation from the pods, the workload and the snapshot of a tick. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, TypeVar

from autoscaler.api.resource import Target
from autoscaler.law.inputs import LATENCIES, Freshness, Reading, SignalKind, Work
from autoscaler.law.sizing import prices
from autoscaler.law.sizing.prices import CostSettings, CostState, Iterations
from autoscaler.law.spec import SignalSpec
from autoscaler.observation.answers import BY_ADDRESS, Snapshot
from autoscaler.observation.objects import PodView
from autoscaler.observation.queries import ACTIVATION, COUNTERS, GAUGES, HISTOGRAMS
from autoscaler.observation.series import PodKey, Sample, merge_buckets, quantile
from headroom.domain.engines import Metric

T = TypeVar("T")

MEMORY_PER_TICK: Final = 0.975
"""Of the mean request: ten minutes at ticks of 15 s."""
CLOCK_TOLERANCE_SECONDS: Final = 5.0
"""Samples from further in the future than this come from a clock that is wrong."""


@dataclass(frozen=True, slots=True)
class ObserveSettings:
    """When a sample is too old, and when a pod is old enough to be expected to report or to teach."""

    stale_seconds: float = 60.0
    report_grace_seconds: float = 45.0
    warm_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Lessons:
    """What the metrics have taught of a target, beside the state of the law."""

    cost: CostState = field(default_factory=CostState)
    requests: float = 0.0
    """Requests that ended, older ones counting less, and the tokens that went with them."""
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0

    @property
    def prompt_length(self) -> float:
        """Prompt tokens of a mean request, 0 while none has ended."""
        return self.prompt_tokens / self.requests if self.requests > 0 else 0.0

    @property
    def output_length(self) -> float:
        """Output tokens of a mean request, 0 while none has ended."""
        return self.output_tokens / self.requests if self.requests > 0 else 0.0


class Gathered(NamedTuple):
    """One fact over the ready pods."""

    state: Freshness
    values: dict[str, float]
    age_seconds: float = 0.0
    missing: int = 0
    detail: str = ""

    @property
    def total(self) -> float:
        return sum(self.values.values())


class Observer:
    """Looks facts of one target up in a snapshot. `wall_seconds` is the time that the pods' stamps are reckoned from."""

    def __init__(
        self,
        target: Target,
        pods: Sequence[PodView],
        snapshot: Snapshot,
        wall_seconds: float,
        settings: ObserveSettings,
    ) -> None:
        self._target, self._snapshot, self._settings, self._wall = target, snapshot, settings, wall_seconds
        self._gauges: dict[tuple[str, ...], Gathered] = {}
        self._counters: dict[tuple[str, ...], _Rates] = {}
        self.ready = [pod for pod in pods if pod.ready_at and not pod.deleted_at]
        self._expected = [pod for pod in self.ready if wall_seconds - pod.ready_at >= settings.report_grace_seconds]

    # Readings

    def readings(self) -> tuple[Reading, ...]:
        """One for every signal but `work`."""
        return tuple(
            self._reading(signal) for signal in self._target.spec.signals if signal.kind is not SignalKind.WORK
        )

    def activation(self) -> Reading | None:
        """The signal that outlives the pods; None where the object has none."""
        if self._target.spec.scale_to_zero is None:
            return None
        return self._of_query(ACTIVATION)

    def utilisation(self) -> Reading:
        """Mean over the cards that the target's pods hold, each card once."""
        return _reading("gpuUtilization", self._utilisation(), mean=True)

    def in_flight(self) -> dict[str, float]:
        """Requests running and waiting by pod, of the pods that report."""
        return self._in_flight().values

    def work(self, lessons: Lessons, cost: prices.Cost | None) -> Work | None:
        """Token rates and their cost; None for engines without token counters."""
        engine = self._target.engine
        if not (engine.prompt_tokens and engine.output_tokens):
            return None
        prompt, output = self._rates(engine.prompt_tokens), self._rates(engine.output_tokens)
        waiting = self.waiting()
        for part in (prompt.gathered, output.gathered, waiting):
            if part.state is not Freshness.FRESH:
                return Work(part.state, age_seconds=part.age_seconds, detail=part.detail)
        running = self._gauge(engine.running)
        return Work(
            state=Freshness.FRESH,
            prompt_tokens_per_second=(prompt.gathered.total, prompt.long),
            output_tokens_per_second=(output.gathered.total, output.long),
            waiting_prompt_tokens=waiting.total * lessons.prompt_length,
            waiting=waiting.total,
            running=running.total if running.state is Freshness.FRESH else 0.0,
            seconds_per_prompt_token=cost.per_prompt_token if cost else 0.0,
            seconds_per_output_token=cost.per_output_token if cost else 0.0,
            full_batch=cost.full_batch if cost else 0.0,
            requests_per_second=self._arrivals(),
            prompt_tokens_per_request=lessons.prompt_length,
            output_tokens_per_request=lessons.output_length,
            age_seconds=max(prompt.gathered.age_seconds, output.gathered.age_seconds, waiting.age_seconds),
            missing=max(prompt.gathered.missing, output.gathered.missing, waiting.missing),
        )

    def learn(self, lessons: Lessons, settings: CostSettings) -> Lessons:
        """What the warm pods teach of the cost of tokens and the length of prompts."""
        engine = self._target.engine
        if not engine.token_seconds:
            return lessons
        rates = {
            name: self._rates(getattr(engine, name)).gathered.values
            for name in ("prompt_tokens", "output_tokens", "iterations", "token_seconds", "token_count", "finished")
        }
        running, kv_cache = self._gauge(engine.running).values, self._gauge(engine.kv_cache).values
        state = lessons.cost
        for pod in self.ready:
            if self._wall - pod.ready_at >= self._settings.warm_seconds:
                of_pod = {name: values.get(pod.name, 0.0) for name, values in rates.items()}
                sample = _iterations(of_pod, running.get(pod.name, 0.0), kv_cache.get(pod.name, 0.0))
                if sample is not None:
                    state = prices.learn(state, sample, settings)
        requests, prompt, output = (
            getattr(lessons, name) * MEMORY_PER_TICK + sum(rates[of].values())
            for name, of in (
                ("requests", "finished"),
                ("prompt_tokens", "prompt_tokens"),
                ("output_tokens", "output_tokens"),
            )
        )
        return Lessons(state, requests, prompt, output)

    def _arrivals(self) -> tuple[float, float] | None:
        """Requests that ended plus the growth of those inside, per second; None where the engine does not count them."""
        engine, changes = self._target.engine, self._snapshot.changes
        if not engine.finished:
            return None
        ended = self._rates(engine.finished)
        if ended.gathered.state is not Freshness.FRESH:
            return None
        short, long = ended.gathered.total, ended.long
        for metric in (engine.running, engine.waiting):
            per_name = [changes.get(name, {}) for name in metric.names]
            for pod in self.ready:
                growth = _look_up(per_name, pod)
                if growth is not None:
                    short, long = short + growth.short, long + growth.long
        return max(short, 0.0), max(long, 0.0)

    def waiting(self) -> Gathered:
        """Requests that wait: the gauge, or by Little's law the rate of the time spent waiting."""
        engine = self._target.engine
        return self._first(
            (lambda: self._gauge(engine.waiting)) if engine.waiting else None,
            (lambda: self._rates(engine.waiting_seconds).gathered) if engine.waiting_seconds else None,
        )

    # Facts

    def _reading(self, signal: SignalSpec) -> Reading:
        kind, engine = signal.kind, self._target.engine
        if kind is SignalKind.QUERY:
            return self._of_query(signal.name)
        if kind in LATENCIES:
            return self._latency(signal)
        if kind is SignalKind.QUEUE:
            return _reading(signal.name, self.waiting())
        if kind is SignalKind.RUNNING:
            return _reading(signal.name, self._in_flight())
        if kind is SignalKind.KV_CACHE:
            return _reading(signal.name, self._gauge(engine.kv_cache), mean=True)
        return _reading(signal.name, self._utilisation(), mean=True)

    def _in_flight(self) -> Gathered:
        engine = self._target.engine
        served = engine.served_seconds
        return self._first(
            (lambda: self._gauge(engine.in_flight)) if engine.in_flight else None,
            (lambda: _plus(self._gauge(engine.running), self.waiting())) if engine.running else None,
            (lambda: self._rates(engine.total_seconds).gathered) if engine.total_seconds else None,
            (lambda: _plus(self._rates(served).gathered, self.waiting())) if served else None,
        )

    @staticmethod
    def _first(*ways: Callable[[], Gathered] | None) -> Gathered:
        """The first way to know a fact that yields something; the complaint of the first one otherwise."""
        found: list[Gathered] = []
        for way in filter(None, ways):
            found.append(way())
            if found[-1].state is not Freshness.EMPTY:
                return found[-1]
        return found[0] if found else Gathered(Freshness.EMPTY, {}, detail="the engine does not export it")

    def _gauge(self, metric: Metric) -> Gathered:
        known = self._gauges.get(metric.names)
        if known is None:
            known = self._gauges[metric.names] = self._gather_gauge(metric)
        return known

    def _gather_gauge(self, metric: Metric) -> Gathered:
        per_name = [self._snapshot.gauges.get(name, {}) for name in metric.names]
        return self._gather(metric, GAUGES, lambda pod: _look_up(per_name, pod))

    def _rates(self, metric: Metric) -> "_Rates":
        known = self._counters.get(metric.names)
        if known is None:
            known = self._counters[metric.names] = self._gather_rates(metric)
        return known

    def _gather_rates(self, metric: Metric) -> "_Rates":
        per_name = [self._snapshot.counters.get(name, {}) for name in metric.names]
        long = 0.0

        def short(pod: PodView) -> Sample | None:
            nonlocal long
            found = _look_up(per_name, pod)
            if found is None:
                return None
            long += found.long * metric.scale
            return Sample(found.at_seconds, found.short)

        return _Rates(self._gather(metric, COUNTERS, short), long)

    def _utilisation(self) -> Gathered:
        """Keyed by card. A neighbour's load on a shared card counts: it takes the same time away."""
        cards: dict[str, float] = {}
        covered, age = 0, 0.0
        for pod in self.ready:
            ids = self._snapshot.devices_of.get((pod.namespace, pod.name)) or {
                name for card in pod.cards for name in (card, f"{pod.node}/{card}") if name in self._snapshot.devices
            }
            fresh = {
                name: self._snapshot.devices[name].sample
                for name in ids
                if name in self._snapshot.devices and self._is_fresh(self._snapshot.devices[name].sample)
            }
            covered += bool(fresh)
            for name, sample in fresh.items():
                cards[name] = sample.value
                age = max(age, self._age(sample))
        if cards and covered * 2 >= len(self.ready):
            return Gathered(Freshness.FRESH, cards, age, len(self.ready) - covered)
        if self._target.engine.gpu_utilisation:
            return self._gauge(self._target.engine.gpu_utilisation)
        if GAUGES in self._snapshot.errors:
            return Gathered(Freshness.ERROR, {}, detail=self._snapshot.errors[GAUGES])
        return Gathered(Freshness.EMPTY, {}, detail="no exporter reports the cards of these pods")

    def _gather(self, metric: Metric, group: str, sample_of: Callable[[PodView], Sample | None]) -> Gathered:
        if group in self._snapshot.errors:
            return Gathered(Freshness.ERROR, {}, detail=self._snapshot.errors[group])
        if not self.ready:
            return Gathered(Freshness.EMPTY, {}, detail="no pod is ready")
        values: dict[str, float] = {}
        age, newest, reporting = 0.0, float("inf"), 0
        for pod in self.ready:
            sample = sample_of(pod)
            if sample is None:
                continue
            reporting += 1
            newest = min(newest, self._age(sample))
            if not self._is_fresh(sample):
                continue
            if sample.value < 0:
                return Gathered(
                    Freshness.ERROR, {}, detail=f"{pod.name} reports {sample.value:g} for {metric.names[0]}"
                )
            values[pod.name] = sample.value * metric.scale
            age = max(age, self._age(sample))
        names = " or ".join(metric.names)
        if not reporting:
            return Gathered(Freshness.EMPTY, {}, detail=f"no pod exports {names}")
        if not values:
            words = f"{newest:.0f} s old" if newest > 0 else f"{-newest:.0f} s in the future"
            return Gathered(Freshness.STALE, {}, newest, detail=f"the newest sample of {names} is {words}")
        # A new pod is given time before its silence makes the whole fact doubtful, but none before it counts as busy.
        overdue = sum(pod.name not in values for pod in self._expected)
        missing = len(self.ready) - len(values)
        if len(values) < overdue:
            text = f"only {len(values)} of {len(values) + overdue} pods report {names}"
            return Gathered(Freshness.STALE, values, age, missing, text)
        return Gathered(Freshness.FRESH, values, age, missing)

    def _latency(self, signal: SignalSpec) -> Reading:
        fact = HISTOGRAMS[signal.kind]
        metric: Metric = getattr(self._target.engine, fact)
        if signal.kind.value in self._snapshot.errors:
            return Reading(signal.name, Freshness.ERROR, detail=self._snapshot.errors[signal.kind.value])
        by_name = self._snapshot.buckets.get(signal.kind.value, {})
        per_name = [by_name.get(name, {}) for name in metric.names]
        found = {pod.name: buckets for pod in self.ready if (buckets := _look_up(per_name, pod)) is not None}
        if not found:
            return Reading(signal.name, Freshness.EMPTY, detail=f"no pod exports {' or '.join(metric.names)}")
        missing = len(self.ready) - len(found)
        value = quantile(merge_buckets(found.values()), signal.quantile) * metric.scale
        return Reading(signal.name, Freshness.FRESH, value, 0.0, missing)

    def _of_query(self, signal: str) -> Reading:
        answer = self._snapshot.custom.get((self._target.key, signal))
        if answer is None:
            return Reading(signal, Freshness.EMPTY, detail="the query answers with nothing")
        if isinstance(answer, str):
            return Reading(signal, Freshness.ERROR, detail=answer)
        return Reading(signal, Freshness.FRESH, answer.value, max(self._age(answer), 0.0))

    def _age(self, sample: Sample) -> float:
        return self._snapshot.clock_seconds - sample.at_seconds

    def _is_fresh(self, sample: Sample) -> bool:
        return -CLOCK_TOLERANCE_SECONDS <= self._age(sample) <= self._settings.stale_seconds


class _Rates(NamedTuple):
    gathered: Gathered
    """Short rates."""
    long: float
    """Total of the long rates."""


def _look_up(per_name: Sequence[Mapping[PodKey, T]], pod: PodView) -> T | None:
    """The first metric name under which the pod reports, by its name or by its address."""
    for samples in per_name:
        found = samples.get((pod.namespace, pod.name))
        if found is None and pod.ip:
            found = samples.get((BY_ADDRESS, pod.ip))
        if found is not None:
            return found
    return None


def _plus(one: Gathered, other: Gathered) -> Gathered:
    """Sum of two facts by pod; the worse of the two states."""
    for part in (one, other):
        if part.state is not Freshness.FRESH:
            return part
    names = one.values.keys() & other.values.keys()
    missing = max(one.missing, other.missing)
    return Gathered(
        Freshness.FRESH,
        {name: one.values[name] + other.values[name] for name in names},
        max(one.age_seconds, other.age_seconds),
        missing,
    )


def _reading(name: str, gathered: Gathered, *, mean: bool = False) -> Reading:
    value = gathered.total
    if mean and gathered.values:
        value /= len(gathered.values)
    return Reading(name, gathered.state, value, max(gathered.age_seconds, 0.0), gathered.missing, gathered.detail)


def _iterations(rates: Mapping[str, float], running: float, kv_cache: float) -> Iterations | None:
    """A cost sample of one pod. Without a count of iterations the batch is the running gauge and the pod busy throughout."""
    if rates["token_count"] <= 0 or rates["token_seconds"] <= 0:
        return None
    seconds = rates["token_seconds"] / rates["token_count"]
    room = running / kv_cache if kv_cache > 0.05 and running >= 1 else float("inf")
    if rates["iterations"] <= 0:
        return Iterations(seconds, running, rates["prompt_tokens"] * seconds, room)
    return prices.counted(
        seconds=1.0,
        iterations=rates["iterations"],
        mean_gap_seconds=seconds,
        output_tokens=rates["output_tokens"],
        prompt_tokens=rates["prompt_tokens"],
        batch_room=room,
    )


def engine_costs(target: Target, lessons: Lessons, settings: CostSettings) -> prices.Cost | None:
    """What the object states, else what was learned."""
    if target.costs is not None:
        return prices.Cost(*target.costs)
    objective = min(
        (signal.target for signal in target.spec.signals if signal.kind is SignalKind.INTER_TOKEN_LATENCY), default=None
    )
    return prices.cost(lessons.cost, replace(settings, target_batch=float(target.most_sequences)), objective)


__all__ = ["Gathered", "Lessons", "ObserveSettings", "Observer", "engine_costs"]
