"""One target's readings and work, from the pods and the snapshot of a tick. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

from autoscaler.api import gateway
from autoscaler.api.resource import Target
from autoscaler.law.inputs import LATENCIES, Freshness, Gateway, Reading, SignalKind, Work
from autoscaler.law.sizing import prices
from autoscaler.law.sizing.prices import CostSettings
from autoscaler.law.sizing.roles import Role
from autoscaler.law.spec import SignalSpec
from autoscaler.observation import absent, stillness
from autoscaler.observation.answers import Snapshot
from autoscaler.observation.cluster.objects import PodView
from autoscaler.observation.gathering import Gathered, Gatherer, ObserveSettings, plus
from autoscaler.observation.lessons import Lessons, prefill_sample_of, sample_of
from autoscaler.observation.queries import ACTIVATION, COUNTERS, GAUGES, HISTOGRAMS
from autoscaler.observation.series import merge_buckets, quantile
from autoscaler.observation.stillness import Load, Still
from autoscaler.observation.traffic import Traffic
from headroom.domain.engines import COUNTERS as COUNTER_FACTS
from headroom.domain.engines import GAUGES as GAUGE_FACTS
from headroom.domain.engines import OF_PREFILL, Before, Metric

_MOVING: Final = ("iterations", "output_tokens", "prompt_tokens", "token_count", "finished")
"""Counters that grow while an engine works."""


class Observer:
    """What one target's pods say. `wall_seconds` is the time that the pods' stamps are reckoned from.

    `pods` are its replicas in every state, `others` further pods of theirs that may serve (workers of a group); `still_before`
    is `still` of the last tick.
    """

    def __init__(
        self,
        target: Target,
        pods: Sequence[PodView],
        snapshot: Snapshot,
        wall_seconds: float,
        settings: ObserveSettings,
        others: Sequence[PodView] = (),
        still_before: Mapping[str, Still] | None = None,
    ) -> None:
        self._target, self._snapshot, self._settings, self._wall = target, snapshot, settings, wall_seconds
        self.ready = [pod for pod in pods if pod.ready_at and not pod.deleted_at]
        serving = [pod for pod in others if pod.ready_at and not pod.deleted_at]
        self._unready = [pod for pod in pods if not pod.ready_at and pod.node and not pod.deleted_at]
        leaving = [pod for pod in pods if pod.ready_at and pod.deleted_at]
        self._facts = self._gatherer(self.ready, serving)
        self._traffic = Traffic(self._facts, self._gatherer(leaving) if leaving else None)
        loads = self._loads()
        self.still = stillness.follow(still_before or {}, loads, snapshot.clock_seconds)
        """Pods with requests inside whose counters stand still."""
        at_end = target.engine.counts_at_end
        idle = {n for n, still in self.still.items() if stillness.is_idle(still, snapshot.clock_seconds, at_end)}
        self._facts.idle = frozenset(idle)
        self.stalled = not at_end and bool(self.still.keys() - idle) and not any(load.moves for load in loads.values())
        """Whether requests are inside and no pod does any of them."""

    # Readings

    def readings(self) -> tuple[Reading, ...]:
        """One for every signal but `work`."""
        return tuple(
            self._reading(signal) if signal.kind is SignalKind.QUERY else self._whole(signal, self._reading(signal))
            for signal in self._target.spec.signals
            if signal.kind is not SignalKind.WORK
        )

    def _whole(self, signal: SignalSpec, reading: Reading) -> Reading:
        """The reading, marked where what it rests on is not whole: pods may be missing that are busier than these."""
        why = self._partial(signal.kind.value) if signal.kind in LATENCIES else self._partial(GAUGES, COUNTERS)
        if not why or reading.state is not Freshness.FRESH:
            return reading
        return replace(reading, state=Freshness.PARTIAL, detail=why)

    def _partial(self, *groups: str) -> str:
        """Why the answer of one of these groups is not whole; empty where they are."""
        partial = self._snapshot.partial
        return next((partial[group] for group in groups if group in partial), "")

    def activation(self) -> Reading | None:
        """The signal that outlives the pods; None where the object has none."""
        zero = self._target.spec.scale_to_zero
        return self._of_query(ACTIVATION) if zero is not None and zero.query else None

    def gateway(self, lessons: Lessons, cost: prices.Cost | None) -> Gateway | None:
        """What waits in front of the pods, and the learned work of a request; None where the object names no gateway."""
        ask = self._target.gateway
        if ask is None:
            return None
        in_pods = _reading("running", self._in_flight()) if self.ready else None
        held = gateway.answered(ask, self._of_query, in_pods)
        if cost is None:
            return held
        lengths = lessons.lengths
        return replace(
            held,
            seconds_per_request=cost.of_request(lengths.prompt, lengths.output),
            decode_seconds_per_request=cost.of_request(0.0, lengths.output),
            full_batch=cost.full_batch,
        )

    def utilisation(self) -> Reading:
        """Mean over the cards that the target's pods hold, each card once."""
        return _reading("gpuUtilization", self._utilisation, mean=True)

    def in_flight(self) -> dict[str, float]:
        """Requests running and waiting by pod, of the pods that report."""
        return self._in_flight().values

    def unready_in_flight(self) -> float:
        """Requests that pods report which have a node and are not ready."""
        if not self._unready:
            return 0.0
        unready = self._gatherer(self._unready)
        counts = [unready.gauge(metric) for metric in self._target.engine.metrics(("running", "waiting", "in_flight"))]
        return sum([count.total for count in counts])

    def spacing_seconds(self) -> float:
        """Between two scrapes of the pods; 0: not known."""
        return self._facts.spacing()

    def scrape_age_seconds(self) -> float:
        """Of the pod that was scraped the longest ago; 0: not known."""
        return self._facts.age()

    def absent(self) -> frozenset[str]:
        """Names that were looked for and that no pod exports, though pods are ready."""
        return frozenset(self._facts.absent)

    def unreadable(self) -> dict[str, str]:
        """Signals whose query Prometheus cannot read, and what it says."""
        said = self._snapshot.unreadable
        names = (*[signal.name for signal in self._target.spec.signals], ACTIVATION) if said else ()
        return {name: said[self._target.key, name] for name in names if (self._target.key, name) in said}

    def is_silent(self) -> bool:
        """Whether a pod that should report was not scraped lately."""
        return bool(self._target.engine.metrics((*GAUGE_FACTS, *COUNTER_FACTS))) and self._facts.silent()

    def work(self, lessons: Lessons, cost: prices.Cost | None) -> Work | None:
        """Token rates and their cost; None for engines without token counters."""
        engine = self._target.engine
        if not (engine.prompt_tokens and engine.output_tokens):
            return None
        prompt, output = self._facts.rates(engine.prompt_tokens), self._facts.rates(engine.output_tokens)
        waiting, running = self.waiting(), self._facts.gauge(engine.running)
        if self._no_request_ended(prompt.gathered, waiting, running):
            return Work(
                Freshness.FRESH,
                waiting=waiting.total,
                running=running.total,
                age_seconds=max(waiting.age_seconds, running.age_seconds),
                missing=max(waiting.missing, running.missing),
                unpriced="no request has ended yet",
            )
        for part in (prompt.gathered, output.gathered, waiting):
            if part.state is not Freshness.FRESH:
                return Work(part.state, age_seconds=part.age_seconds, detail=part.detail)
        lengths, traffic = lessons.lengths, self._traffic
        objective = self._target.spec.objective
        answers, late = traffic.lateness(objective) if objective is not None else (0.0, 0.0)
        why = self._partial(GAUGES, COUNTERS)
        return Work(
            state=Freshness.PARTIAL if why else Freshness.FRESH,
            prompt_tokens_per_second=traffic.rates(engine.prompt_tokens, less=engine.cached_tokens),
            output_tokens_per_second=traffic.rates(engine.output_tokens),
            waiting_prompt_tokens=waiting.total * lengths.prompt,
            waiting=waiting.total,
            running=running.total if running.state is Freshness.FRESH else 0.0,
            seconds_per_prompt_token=cost.per_prompt_token if cost else 0.0,
            seconds_per_output_token=cost.per_output_token if cost else 0.0,
            full_batch=cost.full_batch if cost else 0.0,
            requests_per_second=self._arrivals(),
            prompt_tokens_per_request=lengths.prompt,
            output_tokens_per_request=lengths.output,
            prompt_grain=lengths.prompt_grain,
            running_growth=traffic.growth(engine.running)[0],
            waiting_growth=traffic.growth(engine.waiting)[0],
            tokens_at_end=engine.counts_at_end,
            answers_per_second=answers,
            late_share=late,
            age_seconds=max(prompt.gathered.age_seconds, output.gathered.age_seconds, waiting.age_seconds),
            missing=max(prompt.gathered.missing, output.gathered.missing, waiting.missing),
            detail=why or prompt.gathered.detail or output.gathered.detail or waiting.detail,
            unpriced="" if cost else self._why_unpriced(),
        )

    def learn(self, lessons: Lessons, settings: CostSettings, seconds: float = 15.0) -> Lessons:
        """What the warm pods teach of the cost of tokens, and what ended of the length of requests, in `seconds` since the last time."""
        engine = self._target.engine
        if not engine.token_seconds:
            return lessons
        prefill = self._target.role is Role.PREFILL
        rates = {
            name: self._facts.rates(getattr(engine, name)).gathered.values
            for name in (
                "prompt_tokens",
                "output_tokens",
                "iterations",
                "token_seconds",
                "token_count",
                "cached_tokens",
                *(OF_PREFILL if prefill else ()),
            )
        }
        gauges = {name: self._facts.gauge(getattr(engine, name)).values for name in ("running", "waiting", "kv_cache")}
        state = lessons.cost
        for pod in self.ready:
            if self._wall - pod.ready_at >= self._settings.warm_seconds:
                of_pod = {name: values.get(pod.name, 0.0) for name, values in (*rates.items(), *gauges.items())}
                of_pod["prompt_tokens"] = max(of_pod["prompt_tokens"] - of_pod["cached_tokens"], 0.0)
                sample = prefill_sample_of(of_pod) if prefill else sample_of(of_pod)
                if sample is not None:
                    state = prices.learn(state, sample, settings)
        return Lessons(state, self._traffic.lengths(lessons.lengths, seconds))

    def waiting(self) -> Gathered:
        """Requests that wait: the gauge, or by Little's law the rate of the time spent waiting."""
        engine = self._target.engine
        return _first(
            (lambda: self._facts.gauge(engine.waiting)) if engine.waiting else None,
            (lambda: self._facts.rates(engine.waiting_seconds).gathered) if engine.waiting_seconds else None,
        )

    # Facts

    def _gatherer(self, pods: Sequence[PodView], others: Sequence[PodView] = ()) -> Gatherer:
        return Gatherer(self._target.engine, pods, others, self._snapshot, self._wall, self._settings)

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
            return _reading(signal.name, self._facts.gauge(engine.kv_cache), mean=True)
        return _reading(signal.name, self._utilisation, mean=True)

    def _in_flight(self) -> Gathered:
        engine, facts = self._target.engine, self._facts
        return _first(
            (lambda: facts.gauge(engine.in_flight)) if engine.in_flight else None,
            (lambda: plus(facts.gauge(engine.running), self.waiting())) if engine.running else None,
            (lambda: facts.rates(engine.total_seconds).gathered) if engine.total_seconds else None,
        )

    def _arrivals(self) -> tuple[float, float] | None:
        """Requests that ended plus the growth of those inside, per second; None where the engine does not count them."""
        engine = self._target.engine
        if not engine.finished:
            return None
        ended = self._facts.rates(engine.finished)
        if ended.gathered.state is not Freshness.FRESH:
            return None
        short, long = self._traffic.rates(engine.finished)
        for metric in engine.metrics(("running", "waiting")):
            growth = self._traffic.growth(metric)
            short, long = short + growth[0], long + growth[1]
        return max(short, 0.0), max(long, 0.0)

    def _no_request_ended(self, tokens: Gathered, waiting: Gathered, running: Gathered) -> bool:
        """Whether counters are lacking because the first requests are still inside."""
        return (
            tokens.state is Freshness.EMPTY
            and self._target.engine.before is not Before.EVERYTHING
            and waiting.state is Freshness.FRESH
            and running.state is Freshness.FRESH
        )

    def _why_unpriced(self) -> str:
        engine = self._target.engine
        for metric in engine.metrics(("token_count", "token_seconds")):
            gathered = self._facts.rates(metric).gathered
            if gathered.state is not Freshness.FRESH:
                return f"a token has no price: {gathered.detail}"
            if gathered.total <= 0 and self._facts.rates(engine.finished).gathered.total > 0:
                return f"a token has no price: {metric.names[0]} does not grow, as with one output token a request"
        return "a token has no price yet"

    def _loads(self) -> dict[str, Load]:
        """Of the pods whose gauges and counters are known."""
        engine, facts = self._target.engine, self._facts
        inside = engine.metrics(("running", "waiting", "in_flight"))
        moving = [facts.rates(metric).gathered.values for metric in engine.metrics(_MOVING)]
        if not inside or not moving:
            return {}
        counts = [facts.gauge(metric).values for metric in inside]
        kv_cache = facts.gauge(engine.kv_cache).values if engine.kv_cache else {}
        found = {}
        for name in counts[0]:
            rates = [values[name] for values in moving if name in values]
            if rates and all(name in values for values in counts):
                total = sum([values[name] for values in counts])
                found[name] = Load(any(rate > 0 for rate in rates), total, kv_cache.get(name, 0.0))
        return found

    @cached_property
    def _utilisation(self) -> Gathered:
        """Keyed by card. A neighbour's load on a shared card counts: it takes the same time away."""
        snapshot, stale = self._snapshot, self._settings.stale_seconds
        cards: dict[str, float] = {}
        covered, age, doubts = 0, 0.0, []
        for pod in self.ready:
            found = False
            for name in snapshot.devices.ids_of(pod.namespace, pod.name, pod.node, pod.cards):
                seen = snapshot.devices.by_id[name].utilisation(snapshot.clock_seconds, stale)
                if seen is None:
                    continue
                if seen.contradiction:
                    doubts.append(f"how busy card {name} is is not known: {seen.contradiction}")
                    continue
                found = True
                cards[name] = seen.sample.value
                age = max(age, snapshot.clock_seconds - seen.sample.at_seconds)
            covered += found
        if cards and covered * 2 >= len(self.ready):
            return Gathered(Freshness.FRESH, cards, age, len(self.ready) - covered, doubts[0] if doubts else "")
        if self._target.engine.gpu_utilisation:
            return self._facts.gauge(self._target.engine.gpu_utilisation, of_load=False)
        if GAUGES in snapshot.errors:
            return Gathered(Freshness.ERROR, {}, detail=snapshot.errors[GAUGES])
        if doubts:
            return Gathered(Freshness.ERROR, {}, detail=doubts[0])
        text = "no exporter reports the cards of these pods"
        if snapshot.jobs_left_out:
            text += f"; scrape job {', '.join(sorted(snapshot.jobs_left_out))} is not among device_jobs"
        return Gathered(Freshness.EMPTY, {}, detail=text)

    def _latency(self, signal: SignalSpec) -> Reading:
        snapshot, facts, kind = self._snapshot, self._facts, signal.kind.value
        metric: Metric = getattr(self._target.engine, HISTOGRAMS[signal.kind])
        if kind in snapshot.errors:
            return Reading(signal.name, Freshness.ERROR, detail=snapshot.errors[kind])
        by_name = snapshot.buckets.get(kind, {})
        per_name = [by_name.get(name, {}) for name in metric.names]
        found: dict[str, Mapping[float, float]] = {}
        doubts = [doubt for pod in self.ready if (doubt := facts.doubt(pod))]
        for pod in (*self.ready, *facts.others):
            buckets = facts.look_up(per_name, pod)
            if buckets is None and facts.has_had_no_request(pod):
                buckets = {}
            if buckets is not None and facts.doubt(pod) is None and not facts.is_overdue(pod):
                found[pod.name] = buckets
        reporting = sum(pod.name in found for pod in self.ready)
        missing = len(self.ready) - reporting
        if not reporting:
            if doubts:
                return Reading(signal.name, doubts[0].state, detail=doubts[0].text)
            buckets_of = _bucketed(metric)
            facts.absent.update(buckets_of.names)
            return Reading(signal.name, Freshness.EMPTY, detail=absent.words(buckets_of, snapshot, self.ready))
        value = quantile(merge_buckets(found.values()), signal.quantile) * metric.scale
        overdue = len(facts.expected - found.keys())
        if overdue > reporting:
            text = f"only {reporting} of {reporting + overdue} pods report {' or '.join(metric.names)}"
            return Reading(signal.name, Freshness.STALE, value, missing=missing, detail=text)
        return Reading(signal.name, Freshness.FRESH, value, 0.0, missing, doubts[0].text if doubts else "")

    def _of_query(self, signal: str) -> Reading:
        answer = self._snapshot.custom.get((self._target.key, signal))
        if answer is None:
            return Reading(signal, Freshness.EMPTY, detail="the query answers with nothing")
        if isinstance(answer, str):
            return Reading(signal, Freshness.ERROR, detail=answer)
        key, age = (self._target.key, signal), max(self._snapshot.clock_seconds - answer.at_seconds, 0.0)
        if why := self._snapshot.custom_partial.get(key):
            return Reading(signal, Freshness.PARTIAL, answer.value, age, detail=why)
        return Reading(signal, Freshness.FRESH, answer.value, age, detail=self._snapshot.remarks.get(key, ""))


def _first(*ways: Callable[[], Gathered] | None) -> Gathered:
    """The first way to know a fact that yields something; the complaint of the first one otherwise."""
    found: list[Gathered] = []
    for way in filter(None, ways):
        found.append(way())
        if found[-1].state is not Freshness.EMPTY:
            return found[-1]
    return found[0] if found else Gathered(Freshness.EMPTY, {}, detail="the engine does not export it")


def _bucketed(metric: Metric) -> Metric:
    return replace(metric, names=tuple([f"{name}_bucket" for name in metric.names]))


def _reading(name: str, gathered: Gathered, *, mean: bool = False) -> Reading:
    value = gathered.total
    if mean and gathered.values:
        value /= len(gathered.values)
    return Reading(name, gathered.state, value, max(gathered.age_seconds, 0.0), gathered.missing, gathered.detail)
