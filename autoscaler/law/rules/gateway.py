"""Requests that wait in the gateway are work that is in no pod yet: they wake a target and add to what waits. Pure."""

import math
from dataclasses import replace
from typing import Final

from autoscaler.law import rates
from autoscaler.law.decision import Wish
from autoscaler.law.inputs import GATEWAY, Freshness, Observation, Reading, SignalKind
from autoscaler.law.spec import UP_DEFAULT
from autoscaler.law.turn import Turn

EACH: Final = 16.0
"""Requests that a replica takes at once where nothing says how many: the `running` target of LLM engines."""


def waiting(turn: Turn) -> float:
    """Requests known to wait in the gateway."""
    gateway = turn.observation.gateway
    return gateway.waiting if gateway is not None and gateway.state.may_raise else 0.0


def counted_in(turn: Turn) -> Observation:
    """The observation as if these requests waited in the pods, which is where they will be."""
    observation, held = turn.observation, waiting(turn)
    if held <= 0:
        return observation
    kinds = {signal.name or signal.kind.value: signal.kind for signal in turn.spec.signals}
    work = observation.work
    if work is not None:
        tokens = work.waiting_prompt_tokens + held * work.prompt_tokens_per_request
        work = replace(work, waiting=work.waiting + held, waiting_prompt_tokens=tokens)
    readings = tuple(_with(reading, held, kinds.get(reading.name)) for reading in observation.readings)
    return replace(observation, work=work, readings=readings)


def _with(reading: Reading, held: float, kind: SignalKind | None) -> Reading:
    return replace(reading, value=reading.value + held) if kind in (SignalKind.QUEUE, SignalKind.RUNNING) else reading


def wish(turn: Turn) -> Wish | None:
    """What the requests in the gateway ask for by themselves; None without a gateway.

    While one waits for each ready replica, none may go; replicas that are on the way are asked for once.
    """
    gateway, supply = turn.observation.gateway, turn.supply
    if gateway is None:
        return None
    each, why = _each(turn)
    found = Wish(
        GATEWAY, SignalKind.QUERY, gateway.state, value=gateway.waiting, target=each,
        age_seconds=gateway.age_seconds, detail=gateway.detail or why,
    )  # fmt: skip
    if not gateway.state.may_raise:
        return found
    up = needed(turn)
    if supply.ready:  # what a few serve meanwhile need not be asked for: growth is that of a queue
        up = min(up, max(math.ceil(supply.serving * turn.law.queue_growth), supply.serving + 1, supply.replicas))
    keeps = gateway.waiting >= max(supply.ready, 1) or gateway.state is not Freshness.FRESH
    return replace(found, up=up, low=max(supply.replicas, up) if keeps else up)


def needed(turn: Turn) -> int:
    """Replicas that begin with all that wait within the drain time, and hold them at once."""
    return math.ceil(min(waiting(turn) / _each(turn)[0], turn.spec.max_replicas))


def woken(turn: Turn) -> int:
    """How many to start from zero: by the queue, within the bounds and the rates that the owner has written."""
    spec = turn.spec
    wanted = max(needed(turn), 1)
    if spec.up.policies != UP_DEFAULT.policies:
        wanted = rates.limit_up(0, wanted, turn.state.moves, spec.up.policies, spec.up.largest, turn.now)
    return max(wanted, 1)


def _each(turn: Turn) -> tuple[float, str]:
    """Requests for a replica, and where the number is from."""
    gateway, law = turn.observation.gateway, turn.law
    if gateway is not None and gateway.seconds_per_request > 0:
        by_batch = gateway.full_batch if gateway.full_batch > 0 else math.inf
        # Of a long output only a part falls into the drain time: a place in the batch for so long.
        place = law.gateway_drain_seconds / by_batch if gateway.full_batch > 0 else math.inf
        later = max(gateway.decode_seconds_per_request - place, 0.0)
        by_time = law.gateway_drain_seconds / (gateway.seconds_per_request - later)
        return max(min(by_time, by_batch), 1.0), "a replica for so many, by the learned work of a request"
    stated = [signal.target for signal in turn.spec.signals if signal.kind is SignalKind.RUNNING]
    fallback = turn.spec.fallback
    if not stated and fallback is not None and fallback.kind is SignalKind.RUNNING:
        stated = [fallback.target]
    return (stated[0] if stated else EACH), "a replica for so many: the work of a request is not known yet"
