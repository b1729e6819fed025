"""What is told of each object: its status, Events about conditions that turned bad, and its metrics."""

import zlib
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, Final

import msgspec

from autoscaler.adapters.actuator import Actuator, NotLeaderError
from autoscaler.api.resource import InferenceAutoscaler
from autoscaler.law.decide import Rule
from autoscaler.law.inputs import NO_WORKERS, Freshness
from autoscaler.law.rules.reserve import BURSTS
from autoscaler.law.sizing import prices
from autoscaler.law.turn import least
from autoscaler.metrics import AutoscalerMetrics
from autoscaler.tick import status
from autoscaler.tick.memory import Memory, samples_of
from autoscaler.tick.outcome import Outcome
from headroom.daemon.logs import get_logger
from headroom.kube.client import KubeError

log = get_logger(__name__)

_GOOD: Final = {status.CAPACITY_LIMITED: "False", status.CONFLICT: "False", status.SPEC_WARNING: "False"}
"""Conditions whose good state is not True."""
READINGS_PER_SECOND: Final = 1.5
"""Statuses written for readings alone, all objects together; more objects wait longer. Decisions and conditions do not wait."""
_EXPECTED: Final = (Rule.NO_READY_POD, Rule.OFF, status.ANOTHER_SCALER, NO_WORKERS, status.NO_WINDOW_OPEN)
"""Reasons of conditions that are as somebody wanted them, or pass by themselves."""


class Reporter:
    """Writes statuses where they say something new, and keeps the metrics of objects."""

    def __init__(
        self,
        actuator: Actuator,
        metrics: AutoscalerMetrics,
        *,
        refresh_seconds: float,
        wall_clock: Callable[[], float],
    ) -> None:
        self._actuator, self._metrics = actuator, metrics
        self._refresh_seconds, self._wall_clock = refresh_seconds, wall_clock
        self._crowd_seconds = 0.0
        self._signals: dict[str, tuple[str, ...]] = {}
        """Objects that have series, and the signals among them."""

    async def decided(self, outcome: Outcome, now: float) -> None:
        """Write the status of an object that was decided on, if it is due."""
        memory, resource, decision = outcome.memory, outcome.resource, outcome.decision
        old, wall = memory.status(resource), self._wall_clock()
        claims = status.Claims(
            f"{outcome.target.kind} {outcome.target.name}", outcome.rival,
            memory.others.words(), outcome.yields, outcome.workload.owner,
        )  # fmt: skip
        wanted = status.conditions_of(decision, memory.failure, outcome.unknown_capacity, claims)
        wanted += status.objective_met(decision.objective)
        wanted += status.gateway_known(outcome.observation.gateway)
        wanted += status.scheduled(outcome.observation.scheduled)
        wanted.append(status.spec_warning(outcome.target.mistakes, outcome.unreadable))
        built = status.build(
            decision,
            outcome.observation,
            history=memory.history,
            last_scale=memory.last_scale,
            conditions=_merged(wanted, old, resource, wall),
            generation=resource.metadata.generation,
            now=wall,
        )
        # What was learned is never news, and takes a while to write down.
        await self._write_if_due(resource, memory, built, old, now, more=lambda: {"learned": _learned(outcome)})

    async def refused(
        self, resource: InferenceAutoscaler, memory: Memory, wanted: list[status.Condition], now: float
    ) -> None:
        """Write on an object that is not acted on why it is not."""
        old = memory.status(resource)
        conditions = _merged(wanted, old, resource, self._wall_clock())
        built = {"observedGeneration": resource.metadata.generation, "conditions": conditions}
        await self._write_if_due(resource, memory, built, old, now)

    async def _write_if_due(
        self,
        resource: InferenceAutoscaler,
        memory: Memory,
        built: dict[str, Any],
        old: Mapping[str, Any],
        now: float,
        more: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        since = now - memory.written_at
        refresh, late = self._refresh_seconds, self._crowd_seconds * _spread(resource.key)
        if now < memory.wait_until or not status.says_something_new(built, old, since, refresh, late):
            return
        built = built | more()
        try:
            await self._actuator.status(resource, built)
        except (KubeError, NotLeaderError) as error:
            if isinstance(error, KubeError) and error.retry_after_seconds:
                memory.wait_until = now + error.retry_after_seconds
            log.warning("status_not_written", key=resource.key, error=str(error))
            return
        memory.written, memory.written_at = msgspec.json.encode(built), now
        for reason, message in _turned_bad(built["conditions"], old.get("conditions", ())):
            await self._actuator.event(resource, reason, message, warning=True)

    # Metrics

    def count(self, outcomes: Mapping[str, Outcome], active: Container[str]) -> None:
        """Bring the metrics up to date. An object that is not among the `active` has none: old numbers would look alive."""
        metrics = self._metrics
        self._crowd_seconds = max(len(outcomes) / READINGS_PER_SECOND - self._refresh_seconds, 0.0)
        for key in [key for key in self._signals if key not in active]:
            namespace, _, name = key.partition("/")
            metrics.forget(namespace, name)
            metrics.forget_signals(namespace, name, self._signals.pop(key))
        for key, outcome in outcomes.items():
            of = (outcome.target.namespace, outcome.resource.metadata.name)
            metrics.replicas.labels(*of).set(outcome.observation.replicas)
            metrics.ready.labels(*of).set(outcome.observation.pods.ready)
            metrics.wanted.labels(*of).set(outcome.decision.wanted)
            metrics.unmet.labels(*of).set(outcome.decision.unmet)
            metrics.decided.labels(*of).set(outcome.decision.replicas)
            metrics.start_up.labels(*of).set(outcome.decision.start_seconds)
            if outcome.decision.objective is not None:
                metrics.objective.labels(*of).set(outcome.decision.objective.share)
            needed = _needed(outcome)
            if needed is None:
                metrics.forget_load(*of)
            else:
                metrics.needed.labels(*of).set(needed)
            signals = tuple(wish.name for wish in outcome.decision.wishes)
            gone = tuple(signal for signal in self._signals.get(key, ()) if signal not in signals)
            metrics.forget_signals(*of, gone)
            self._signals[key] = signals
            for wish in outcome.decision.wishes:
                metrics.signal_fresh.labels(*of, wish.name).set(wish.state is Freshness.FRESH)
                metrics.signal_target.labels(*of, wish.name).set(wish.target)
                if wish.state is Freshness.FRESH:
                    metrics.signal.labels(*of, wish.name).set(wish.value)


def _spread(key: str) -> float:
    """0.75 to 1.25, the same for an object each time: objects that were first seen together are not written together for ever."""
    return 0.75 + zlib.crc32(key.encode()) / 2**33


def _needed(outcome: Outcome) -> int | None:
    """What the load asks for now, within the bounds; None while nothing fresh says so."""
    asked = [wish.up for wish in outcome.decision.wishes if wish.state.may_raise and wish.name != BURSTS]
    if not asked:
        return None
    spec = outcome.target.spec
    return min(max(*asked, least(spec, outcome.observation)), spec.max_replicas)


def _merged(
    wanted: list[status.Condition], old: Mapping[str, Any], resource: InferenceAutoscaler, wall: float
) -> list[dict[str, Any]]:
    return status.merge_conditions(wanted, old.get("conditions") or (), resource.metadata.generation, wall)


def _learned(outcome: Outcome) -> dict[str, Any]:
    decision = outcome.decision
    learned = {
        "startUpSeconds": f"{decision.start_seconds:.0f}",
        "holdSeconds": f"{decision.hold_seconds:.0f}",
        "samples": samples_of(decision.state.learned, outcome.memory.lessons),
    }
    if outcome.scrape_seconds:
        learned["scrapeSeconds"] = f"{outcome.scrape_seconds:.0f}"
    work = outcome.observation.work
    if work is not None and work.known:
        learned["secondsPerPromptToken"] = f"{work.seconds_per_prompt_token:.3g}"
        learned["secondsPerOutputToken"] = f"{work.seconds_per_output_token:.3g}"
        learned |= _doubts(outcome)
    return learned


def _doubts(outcome: Outcome) -> dict[str, str]:
    """How far learned prices can be trusted, each as a share of the price; nothing where the object states them."""
    if outcome.target.costs is not None:
        return {}
    doubt = prices.doubt(outcome.memory.lessons.cost, prices.CostSettings())
    return {"promptTokenError": _share(doubt.per_prompt_token), "outputTokenError": _share(doubt.per_output_token)}


def _share(error: float) -> str:
    return f"{error:.2g}" if error < 1 else "1"


def _turned_bad(new: list[dict[str, Any]], old: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Conditions that have become a reason to look: (reason, message)."""
    before = {str(condition.get("type")): condition.get("status") for condition in old}
    found: dict[str, str] = {}
    for condition in new:
        wanted = _GOOD.get(condition["type"], "True")
        was = before.get(condition["type"])
        expected = condition["reason"] in _EXPECTED
        if condition["status"] != wanted and was != condition["status"] and not expected:
            found.setdefault(condition["reason"], condition["message"])
    return list(found.items())
