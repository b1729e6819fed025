"""One tick: collect for all objects, decide each, ask for room, share budgets, act, record. A bad object hurts only itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Mapping
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from autoscaler.adapters.actuator import Actuator
from autoscaler.adapters.collector import Collector
from autoscaler.api.resource import InferenceAutoscaler, Target, kind_key
from autoscaler.api.schedule import scheduled
from autoscaler.law import budget
from autoscaler.law.constants import LawConstants
from autoscaler.law.decide import Rule, capped, decide
from autoscaler.law.inputs import Capacity, Observation, PodFacts
from autoscaler.law.sizing.prices import CostSettings
from autoscaler.metrics import AutoscalerMetrics
from autoscaler.observation.answers import Snapshot
from autoscaler.observation.cluster import pods
from autoscaler.observation.cluster.objects import PodView
from autoscaler.observation.cluster.workloads import DEPLOYMENT, Workload
from autoscaler.observation.cluster.world import World
from autoscaler.observation.gathering import ObserveSettings
from autoscaler.observation.lessons import engine_costs
from autoscaler.observation.observer import Observer
from autoscaler.observation.queries import CLOCK, plan
from autoscaler.observation.scrapes import Outlook
from autoscaler.settings import AutoscalerSettings, budgets
from autoscaler.tick import status
from autoscaler.tick.memory import Memory, gpus_of, recall
from autoscaler.tick.moving import Mover, not_moved
from autoscaler.tick.outcome import Outcome
from autoscaler.tick.reporter import Reporter
from headroom.daemon.guard import Guard
from headroom.daemon.logs import get_logger

T = TypeVar("T")

log = get_logger(__name__)


class FitSource(Protocol):
    """Who knows how many more pods fit."""

    async def ask(
        self, template: bytes, namespace: str, limit: int, pods_per_replica: int
    ) -> tuple[Capacity | None, str]:
        """(answer, complaint)."""
        ...


class ScaleReader(Protocol):
    """Who reads the scales of kinds that are known by nothing else."""

    @property
    def problems(self) -> Mapping[str, str]:
        """Workloads whose scale cannot be read, and why."""
        ...

    async def refresh(self) -> None:
        """Read those that have changed."""
        ...


class ComplaintSource(Protocol):
    """Who knows why pods could not be made."""

    async def about(self, workload: Workload) -> str:
        """In the controller's words; empty where it says nothing."""
        ...


_UNFORESEEN: Final = (
    "an error that nobody foresaw: the object keeps its replicas; the log event unforeseen_failure tells of it"
)
_BREATH: Final = 50
"""Objects decided between two turns of the event loop: the lease is renewed in between."""


class Loop:
    """Holds the memories; `tick` is called by the daemon, `--once` and the benchmark."""

    def __init__(
        self,
        world: World,
        collector: Collector,
        actuator: Actuator,
        settings: AutoscalerSettings,
        metrics: AutoscalerMetrics,
        *,
        fit: FitSource | None,
        scales: ScaleReader | None = None,
        complaints: ComplaintSource | None = None,
        may_write: Callable[[], bool],
        guard: Guard,
        law: LawConstants | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._world, self._collector, self._settings, self._metrics = world, collector, settings, metrics
        self._guard = guard
        self._scales, self._complaints = scales, complaints
        self._fit, self._may_write, self._monotonic, self._wall_clock = fit, may_write, monotonic, wall_clock
        self._law = law or LawConstants(
            short_mean_seconds=settings.short_mean_seconds, long_mean_seconds=settings.long_mean_seconds
        )
        self._observing = ObserveSettings(stale_seconds=settings.stale_seconds)
        self._costs = CostSettings()
        self._budgets = budgets(settings)
        self._memories: dict[str, Memory] = {}
        self.prometheus_away = ""
        """Why Prometheus gives no answer at all; empty while it does."""
        self._outlook = Outlook()
        self._absent: frozenset[str] = frozenset()
        """Names of metrics that some target's pods did not export in the last tick."""
        self._mover = Mover(world, actuator, metrics, wall_clock)
        self._reporter = Reporter(
            actuator,
            metrics,
            refresh_seconds=settings.status_refresh_seconds,
            wall_clock=wall_clock,
        )

    async def tick(self) -> dict[str, Outcome]:
        """One round over all objects; returns what was decided."""
        started = self._monotonic()
        now, wall = started, self._wall_clock()
        self._forget_deleted()
        if self._scales is not None:
            await self._scales.refresh()
        asked_for = self._active()
        snapshot = await self._collect(asked_for.values())
        # An object that came, went or changed meanwhile has its turn in the next tick.
        active = {key: target for key, target in self._active().items() if asked_for.get(key) is target}
        outcomes: dict[str, Outcome] = {}
        for number, target in enumerate(active.values()):
            if number % _BREATH == 0:
                await asyncio.sleep(0)
            outcome = await self._guarded(target.key, self._consider(target, snapshot, now, wall))
            if outcome is not None:
                outcomes[target.key] = outcome
        seen = outcomes.values()
        self._outlook = self._outlook.after(
            [snapshot.devices.spacing_seconds, *(outcome.scrape_seconds for outcome in seen)],
            [outcome.scrape_age_seconds for outcome in seen],
            any(outcome.silent for outcome in seen),
            now,
        )
        self._absent = frozenset[str]().union(*(outcome.absent for outcome in seen))
        await self._ask_for_room(outcomes.values(), now)
        self._share_budgets(outcomes.values())
        for outcome in outcomes.values():
            outcome.memory.state = outcome.decision.state
        if self._may_write() and not self._settings.dry_run:
            await asyncio.gather(*(self._act(outcome, now) for outcome in outcomes.values()))
            await self._refuse_rest(now, active.keys() - outcomes.keys())
        else:
            self._look_on(outcomes.values())
        self._count(outcomes)
        self._metrics.tick_seconds.observe(self._monotonic() - started)
        self._metrics.last_tick.set(self._wall_clock())
        return outcomes

    def _active(self) -> dict[str, Target]:
        """Objects to look at: whose target is there and nobody else's, or that only advise."""
        world = self._world
        world.index_rivals()
        targets = world.targets.items()
        return {k: t for k, t in targets if world.is_known(t.scaled) and (t.advisory or not world.conflict(t))}

    async def _collect(self, targets: Collection[Target]) -> Snapshot:
        settings, collector = self._settings, self._collector
        windows = self._outlook.windows(settings.stale_seconds, settings.long_mean_seconds)
        asked = collector.queries_asked
        snapshot = await collector.collect(plan(targets, windows), self._absent)
        self._metrics.queries.inc(collector.queries_asked - asked)
        self._metrics.query_failures.inc(len(snapshot.errors))
        self._note_prometheus(snapshot.errors.get(CLOCK, ""))
        return snapshot

    def _note_prometheus(self, error: str) -> None:
        """One line in the log when it goes and when it comes back; in between the objects say it."""
        self._metrics.prometheus_up.set(not error)
        if error and not self.prometheus_away:
            log.warning("prometheus_away", error=error)
        elif self.prometheus_away and not error:
            log.info("prometheus_back")
        self.prometheus_away = error

    # Deciding

    async def _consider(self, target: Target, snapshot: Snapshot, now: float, wall: float) -> Outcome:
        world = self._world
        resource, workload = world.resources[target.key], world.workloads[target.scaled]
        memory = self._memory(target.key, resource)
        own = world.pods_of(target.scaled)
        started = self._started(memory, own)
        observer = Observer(target, own, snapshot, wall, self._observing, world.workers_of(target.scaled), memory.still)
        memory.still = observer.still
        memory.lessons = observer.learn(memory.lessons, self._costs, self._settings.tick_seconds)
        cost = engine_costs(target, memory.lessons, self._costs)
        observation = Observation(
            replicas=workload.replicas,
            pods=replace(
                await self._pod_facts(memory, workload, pods.facts(own, wall, started), now),
                unready_in_flight=observer.unready_in_flight(),
            ),
            readings=observer.readings(),
            work=observer.work(memory.lessons, cost),
            utilisation=observer.utilisation() if target.spec.queueing else None,
            activation=observer.activation(),
            gateway=observer.gateway(memory.lessons, cost),
            scheduled=scheduled(target.schedule, wall),
            stalled=observer.stalled,
            gpus_per_replica=self._gpus(target, memory, workload, own),
            rollout=workload.rollout,
            rollout_detail=workload.rollout_detail,
        )
        memory.started = pods.started(own, started)
        decision = decide(target.spec, memory.state, observation, now, self._law)
        rival = world.conflict(target)
        self._watch_others(target, memory, workload, now, rival)
        lowering = decision.replicas < observation.replicas
        return Outcome(
            target, resource, memory, own, workload, observation, memory.state, decision,
            observer.in_flight() if lowering else {},
            scrape_seconds=observer.spacing_seconds(), scrape_age_seconds=observer.scrape_age_seconds(),
            silent=observer.is_silent(), absent=observer.absent(),
            rival=rival, yields=now < memory.others.yields_until,
            unreadable=observer.unreadable(),
        )  # fmt: skip

    async def _pod_facts(self, memory: Memory, workload: Workload, facts: PodFacts, now: float) -> PodFacts:
        """With the replicas that have no pod, and why."""
        # A Deployment that is seen says by itself what it was refused; others leave pods out without a word.
        silent = workload.kind != DEPLOYMENT or workload.unobserved
        short = silent and pods.is_short(facts, workload.replicas)
        memory.short_since = (memory.short_since if memory.short_since is not None else now) if short else None
        seconds = None if memory.short_since is None else now - memory.short_since
        facts = pods.with_missing(facts, workload.replicas, workload.refusal, seconds)
        if not facts.not_created or facts.why_not_created:
            return facts
        why = await self._complaints.about(workload) if self._complaints is not None else ""
        if not why and workload.unobserved:
            why = "its controller has not acted on the newest spec yet"
        return replace(facts, why_not_created=why)

    def _watch_others(self, target: Target, memory: Memory, workload: Workload, now: float, rival: str) -> None:
        """Note who else changed the replicas, while nobody else has the right to."""
        if target.advisory or rival or not self._may_write():
            memory.others.forget()
            return
        change = memory.others.look(workload, now)
        if change is not None:
            text = f"{change.who} changed the replicas from {change.before} to {change.after}"
            log.info("replicas_changed_by_another", key=target.key, who=change.who, text=text)
            entry = status.changed_by_another(change.before, change.after, text, self._wall_clock())
            memory.history = [entry, *memory.history][: status.HISTORY]

    async def _ask_for_room(self, outcomes: Iterable[Outcome], now: float) -> None:
        """Before raising, ask how many more of this pod fit, and decide again with the answer."""
        fit = self._fit
        rising = [o for o in outcomes if o.decision.wanted > o.observation.replicas and o.target.spec.enforce_capacity]
        if fit is None or not rising:
            return

        async def ask(outcome: Outcome) -> None:
            waiting = len(outcome.observation.pods.unschedulable)
            limit = outcome.decision.wanted - outcome.observation.replicas + waiting
            workload = outcome.workload
            capacity, complaint = await fit.ask(
                workload.template, outcome.target.namespace, limit, workload.pods_per_replica
            )
            outcome.unknown_capacity = complaint
            if capacity is not None:
                outcome.observation = replace(outcome.observation, capacity=capacity)
                outcome.decision = decide(outcome.target.spec, outcome.before, outcome.observation, now, self._law)

        await asyncio.gather(*(self._guarded(outcome.target.key, ask(outcome)) for outcome in rising))

    def _share_budgets(self, outcomes: Iterable[Outcome]) -> None:
        by_project: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            if outcome.target.project in self._budgets:
                by_project.setdefault(outcome.target.project, []).append(outcome)
        for project, members in by_project.items():
            limit = self._budgets[project]
            asks = [_ask(outcome) for outcome in members]
            advisory = {o.target.key for o in members if not o.acts}
            # What is only advised takes nothing from those that act, and is told what it would get among all.
            acting = [ask._replace(wanted=ask.current) if ask.key in advisory else ask for ask in asks]
            allowed = budget.share(limit, acting)
            if advisory:
                allowed |= {key: count for key, count in budget.share(limit, asks).items() if key in advisory}
            for outcome in members:
                outcome.decision = capped(
                    outcome.decision,
                    outcome.observation.replicas,
                    allowed[outcome.target.key],
                    Rule.BUDGET,
                    f"project {project} has a budget of {limit:g} GPUs",
                )

    @staticmethod
    def _started(memory: Memory, own: list[PodView]) -> Mapping[str, float]:
        """Pods that are no news. What an earlier leader learned of starts is not learned of the same pods again."""
        if memory.started is not None:
            return memory.started
        return pods.started(own, {}) if memory.state.learned.start_seconds else {}

    def _gpus(self, target: Target, memory: Memory, workload: Workload, own: list[PodView]) -> float:
        """Reckoned only where a limit asks for it."""
        limited = target.spec.max_gpus is not None or target.project in self._budgets
        return gpus_of(target, memory, workload, own) if limited else 1.0

    # Acting

    async def _act(self, outcome: Outcome, now: float) -> None:
        await self._guarded(outcome.target.key, self._mover.move(outcome, now))
        await self._guarded(outcome.target.key, self._reporter.decided(outcome, now))

    def _look_on(self, outcomes: Iterable[Outcome]) -> None:
        """Not the one that acts: nothing was moved, and what another one writes counts."""
        for outcome in outcomes:
            not_moved(outcome)
        for key, memory in self._memories.items():
            if key in self._world.resources:
                memory.follow(self._world.resources[key])

    def _why_not_looked_at(self, target: Target) -> list[status.Condition]:
        world = self._world
        kind = kind_key(target.api_version, target.kind)
        if kind in world.not_served:
            owned = world.owned_by(f"{target.kind} {target.name}", target.namespace)
            behind = " and ".join(key.replace(f"/{target.namespace}/", " ") for key in owned)
            more = f"; {behind}, which it controls, can be scaled in its place" if behind else ""
            return status.refused("TargetNotScalable", f"{world.not_served[kind]}{more}")
        if other := world.conflict(target):
            text = f"{target.kind} {target.name} is already scaled by {other}"
            return status.refused(status.AMBIGUOUS_OWNER, text, conflict=True)
        if target.scaled in world.workloads:
            why = self._scales.problems.get(target.scaled) if self._scales is not None else None
            return status.refused("TargetNotScalable", why or "its scale has not been read yet")
        text = f"{target.kind} {target.name} does not exist in namespace {target.namespace}"
        return status.refused("TargetNotFound", text)

    async def _refuse_rest(self, now: float, failed: Container[str]) -> None:
        """Say on every object that is not looked at, or that could not be decided on, why it is not."""
        refusals: list[tuple[str, list[status.Condition]]] = []
        for key, message in self._world.invalid.items():
            refusals.append((key, status.refused("InvalidSpec", message)))
        active = self._active()
        for key, target in self._world.targets.items():
            if key not in active:
                refusals.append((key, self._why_not_looked_at(target)))
            elif key in failed:
                refusals.append((key, status.refused("InternalError", _UNFORESEEN)))
        for key, wanted in refusals:
            resource = self._world.resources.get(key)
            if resource is None:
                continue
            memory = self._memory(key, resource)
            # Windows must be seen anew once the object is acted on again.
            memory.state = memory.state.interrupted()
            await self._guarded(key, self._reporter.refused(resource, memory, wanted, now))

    def _memory(self, key: str, resource: InferenceAutoscaler) -> Memory:
        memory = self._memories.get(key)
        if memory is None or memory.uid != resource.metadata.uid:
            memory = self._memories[key] = recall(resource)
        return memory

    # Housekeeping

    async def _guarded(self, key: str, work: Awaitable[T]) -> T | None:
        return await self._guard.run("object", work, key=key)

    def _forget_deleted(self) -> None:
        for key in [key for key in self._memories if key not in self._world.resources]:
            del self._memories[key]
            self._metrics.forget_moves(*key.split("/"))

    def _count(self, outcomes: Mapping[str, Outcome]) -> None:
        world = self._world
        acting = sum(outcome.acts for outcome in outcomes.values())
        disputed = sum(not t.advisory and bool(world.conflict(t)) for t in world.targets.values())
        advising = sum(outcome.target.advisory for outcome in outcomes.values())
        self._metrics.leader.set(self._may_write())
        self._metrics.objects.labels("active").set(acting)
        self._metrics.objects.labels("advisory").set(advising)
        self._metrics.objects.labels("invalid").set(len(self._world.invalid))
        self._metrics.objects.labels("conflict").set(disputed)
        self._reporter.count(outcomes, self._active())


def _ask(outcome: Outcome) -> budget.Ask:
    """What an object wants of its project's budget. Replicas that have no pod hold nothing of it."""
    seen = outcome.observation
    held = seen.replicas - seen.pods.not_created
    wanted = held if seen.pods.not_created else outcome.decision.replicas
    return budget.Ask(outcome.target.key, held, wanted, seen.gpus_per_replica)
