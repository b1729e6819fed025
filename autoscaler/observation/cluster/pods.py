"""A target's pods by state, and which of them are cheapest to lose. Pure; now is an argument."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from autoscaler.law.inputs import PodFacts
from autoscaler.observation.cluster.objects import PodView

GONE: Final = ("Succeeded", "Failed")
NOT_CREATED_SECONDS: Final = 30.0
"""A controller that works makes a pod within seconds; two ticks tell it from a watch that lags behind."""


def facts(pods: Iterable[PodView], now: float, started_before: Mapping[str, float]) -> PodFacts:
    """Count the pods by state. `started_before` is what `started` said of them at the last tick.

    A pod that is ready for the first time has just started. One that was ready before and is so again has not, and what was
    ready long before this process began teaches nothing that later starts will not.
    """
    ready = failing = 0
    starting: list[float] = []
    unschedulable: list[float] = []
    terminating: list[float] = []
    started: list[float] = []
    for pod in pods:
        if pod.phase in GONE:
            continue
        if pod.deleted_at:
            terminating.append(max(now - pod.deleted_at, 0.0))
        elif pod.ready_at:
            ready += 1
            is_new = started_before.get(pod.name) != pod.created_at
            if is_new and now - pod.ready_at < 3600 and pod.ready_at > pod.scheduled_at > 0:
                started.append(pod.ready_at - pod.scheduled_at)
        elif pod.failing:
            failing += 1
        elif not pod.node:
            unschedulable.append(max(now - pod.created_at, 0.0))
        else:
            starting.append(max(now - pod.scheduled_at, 0.0))
    return PodFacts(ready, tuple(starting), tuple(unschedulable), failing, tuple(terminating), tuple(started))


def is_short(facts: PodFacts, replicas: int) -> bool:
    """Whether pods are missing and none is on the way, which is not so for long unless something keeps them from being made.

    A StatefulSet makes its pods one after the other, so one that starts, leaves or fails may hold up the others.
    """
    coming = facts.starting or facts.unschedulable or facts.terminating or facts.crash_looping
    return facts.alive < replicas and not coming


def with_missing(facts: PodFacts, replicas: int, refusal: str, short_seconds: float | None) -> PodFacts:
    """The facts with the replicas that have no pod: by the controller's word (`refusal`), or because none has come for so long.

    `short_seconds` is None while none is missing without a word.
    """
    missing = replicas - facts.alive
    if missing <= 0 or not (refusal or short_seconds is not None):
        return facts
    if refusal or (short_seconds or 0.0) >= NOT_CREATED_SECONDS:
        return replace(facts, not_created=missing, why_not_created=refusal)
    return replace(facts, awaited=missing)


def started(pods: Iterable[PodView], before: Mapping[str, float]) -> dict[str, float]:
    """Pods that are ready or have been, and when they were created (a StatefulSet gives the same name again)."""
    return {
        pod.name: pod.created_at
        for pod in pods
        if not pod.deleted_at and (pod.ready_at or before.get(pod.name) == pod.created_at)
    }


def cheapest_to_lose(
    pods: Sequence[PodView],
    count: int,
    load: Mapping[str, float],
    free_after: Mapping[str, float] | None = None,
) -> list[PodView]:
    """The `count` pods whose loss hurts least, cheapest first.

    Not ready before ready (the ReplicaSet controller would take them first anyway), then the least load (`load` maps
    names to requests in flight; a pod that does not report counts as busy as the busiest), then the one whose cards
    become most useful when free (`free_after` maps names to the free share of their fullest card), then the youngest.
    """
    busiest = max(load.values(), default=0.0)
    useful = free_after or {}
    alive = [pod for pod in pods if not pod.deleted_at and pod.phase not in GONE]
    alive.sort(
        key=lambda pod: (
            bool(pod.node),
            bool(pod.ready_at),
            load.get(pod.name, busiest if pod.ready_at else 0.0),
            -useful.get(pod.name, 0.0),
            -pod.created_at,
            pod.name,
        )
    )
    return alive[: max(count, 0)]


def free_share_after(pods: Iterable[PodView], everyone: Iterable[PodView]) -> dict[str, float]:
    """For each pod the largest share of a card that would be whole again without it, from all pods' assigned shares."""
    held: dict[tuple[str, str], float] = {}
    for pod in everyone:
        if pod.phase in GONE or not pod.node:
            continue
        for card in pod.cards:
            held[pod.node, card] = held.get((pod.node, card), 0.0) + (pod.share or 1.0)
    return {
        pod.name: max((1.0 - held[pod.node, card] + (pod.share or 1.0) for card in pod.cards), default=0.0)
        for pod in pods
        if pod.node and all((pod.node, card) in held for card in pod.cards)
    }
