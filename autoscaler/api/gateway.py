"""`spec.gateway`: which gateway stands in front of the target, what is asked of Prometheus for it, and what the answers mean. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from autoscaler.law.inputs import NO_WORKERS, Freshness, Gateway, Reading
from headroom.domain.gateways import GATEWAYS, inside_query, known_query, waiting_query
from headroom.wire import Wire

WAITING: Final = "gateway.waiting"
INSIDE: Final = "gateway.inside"
KNOWN: Final = "gateway.known"
"""Under these names its queries are answered; names of signals hold no dot."""

MOST_REQUESTS: Final = 1e7
"""More is no count of requests."""

Fail = Callable[[str, object, str], Exception]
"""(field, value, what is wrong with it) -> the error to raise."""


class GatewayWire(Wire):
    type: str = ""
    pool: str = ""
    model: str = ""
    namespace: str = ""
    offline: str = "Ignore"


@dataclass(frozen=True, slots=True)
class GatewayAsk:
    """What is asked of a gateway."""

    kind: str
    part: str
    """The pool or model, in words: `pool chat in namespace ai`."""
    queries: Mapping[str, str]
    """Name -> PromQL."""
    holds_at_zero: bool = True
    """Whether it keeps requests while the target has no pods."""


def read_gateway(wire: GatewayWire | None, namespace: str, fail: Fail) -> GatewayAsk | None:
    """The gateway of an object in `namespace`; None where it has none. Raises the error of `fail`."""
    if wire is None:
        return None
    kind = GATEWAYS.get(wire.type)
    if kind is None:
        raise fail("gateway.type", wire.type, f"is not one of {', '.join(GATEWAYS)}")
    for name, value in (("pool", wire.pool), ("model", wire.model)):
        if bool(value) != (name == kind.names_by):
            why = "is empty: which one is meant?" if not value else f"belongs to other gateways than {kind.name}"
            raise fail(f"gateway.{name}", value, why)
    if wire.offline not in ("Ignore", "Count"):
        raise fail("gateway.offline", wire.offline, "is not Ignore or Count")
    part, where = wire.pool or wire.model, wire.namespace or namespace
    queries = {
        WAITING: waiting_query(kind, part, where, offline=wire.offline == "Count"),
        KNOWN: known_query(kind, where),
    }
    if kind.inside:
        queries[INSIDE] = inside_query(kind, part, where)
    return GatewayAsk(kind.name, f"{kind.names_by} {part} in namespace {where}", queries, kind.holds_at_zero)


def answered(ask: GatewayAsk, answer: Callable[[str], Reading], in_pods: Reading | None) -> Gateway:
    """The gateway's state from the answers to its queries; `in_pods` are the requests in the ready pods, None without any."""
    waiting = _sane(answer(WAITING))
    if waiting.state is Freshness.EMPTY:
        if in_pods is None and not ask.holds_at_zero:
            detail = f"{ask.kind} knows no {ask.part} while it has no workers, and keeps no requests for it"
            return Gateway(Freshness.EMPTY, reason=NO_WORKERS, detail=detail)
        return _unknown(ask, answer(KNOWN))
    if not waiting.state.may_raise:
        return Gateway(waiting.state, reason="NoAnswer", detail=waiting.detail)
    held = Gateway(waiting.state, waiting.value, age_seconds=waiting.age_seconds, detail=waiting.detail)
    if INSIDE not in ask.queries or in_pods is None:
        return held
    inside = _sane(answer(INSIDE))
    if not inside.state.may_raise or in_pods.state is not Freshness.FRESH:
        # Some of those that it counts are in pods: without knowing how many, none is known to be in no pod.
        why = inside.detail if not inside.state.may_raise else in_pods.detail
        return replace(held, state=Freshness.PARTIAL, waiting=0.0, detail=f"how many are in pods is not known: {why}")
    return replace(held, waiting=min(held.waiting, max(inside.value - in_pods.value, 0.0)))


def _unknown(ask: GatewayAsk, known: Reading) -> Gateway:
    if not known.state.may_raise:
        detail = f"no {ask.kind} gateway is seen: is it scraped? ({ask.part})"
        return Gateway(Freshness.EMPTY, reason="GatewayAway", detail=detail)
    check = "is it gone" if ask.kind == "dynamo" else "is it gone, or is flow control off"
    detail = f"the {ask.kind} gateway says nothing of {ask.part}: {check}?"
    return Gateway(Freshness.EMPTY, reason="PoolUnknown", detail=detail)


def _sane(reading: Reading) -> Reading:
    if not reading.state.may_raise or 0 <= reading.value <= MOST_REQUESTS:
        return reading
    return replace(
        reading, state=Freshness.ERROR, value=0.0, detail=f"the gateway says {reading.value:g}, which is no count"
    )
