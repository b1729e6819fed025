"""`spec.objective`: what a request should get, read into the law's terms, with each engine's defaults. Pure."""

from collections.abc import Callable
from typing import Final

from autoscaler.api.engines import exports
from autoscaler.law.inputs import SignalKind
from autoscaler.law.spec import Objective, SignalSpec
from headroom.domain.engines import Engine
from headroom.units import UnitError, parse_duration_seconds, parse_quantity
from headroom.wire import Quantity, Wire

SHARE: Final = 0.98
FIRST_TOKEN_SECONDS: Final = 2.0
INTER_TOKEN_SECONDS: Final = 0.1
"""Of engines that say so, where an objective names no latency: a reader waits two seconds, and reads ten tokens a second."""
WORK_TARGET: Final = 0.9

Fail = Callable[[str, object, str], Exception]
"""(field, value, what is wrong with it) -> the error to raise."""


class ObjectiveWire(Wire):
    time_to_first_token: str = ""
    inter_token_latency: str = ""
    request_latency: str = ""
    share: Quantity | None = None


def read_objective(wire: ObjectiveWire, engine: Engine, fail: Fail) -> Objective:
    """The objective; latencies that the engine does not tell are refused, by the error of `fail`."""
    if not exports(engine, SignalKind.WORK):
        raise fail(
            "objective", engine.name, "is an engine without token counters: replicas cannot be sized by an objective"
        )
    stated = (
        ("timeToFirstToken", wire.time_to_first_token, SignalKind.TIME_TO_FIRST_TOKEN),
        ("interTokenLatency", wire.inter_token_latency, SignalKind.INTER_TOKEN_LATENCY),
        ("requestLatency", wire.request_latency, SignalKind.REQUEST_LATENCY),
    )
    seconds = [_seconds(f"objective.{name}", text, kind, engine, fail) for name, text, kind in stated]
    first, between, whole = seconds if any(seconds) else (*_usual(engine), None)
    return Objective(first, between, whole, _share(wire.share, fail))


def usual_objective(engine: Engine) -> Objective | None:
    """The engine's default; None where it cannot have one."""
    if not exports(engine, SignalKind.WORK):
        return None
    return Objective(*_usual(engine), share=SHARE)


def with_work(signals: tuple[SignalSpec, ...]) -> tuple[SignalSpec, ...]:
    """The signals with `work` among them, which is what an objective is kept by."""
    if any(signal.kind is SignalKind.WORK for signal in signals):
        return signals
    return (SignalSpec(SignalKind.WORK, WORK_TARGET, SignalKind.WORK), *signals)


def _usual(engine: Engine) -> tuple[float | None, float | None]:
    first = FIRST_TOKEN_SECONDS if exports(engine, SignalKind.TIME_TO_FIRST_TOKEN) else None
    return first, INTER_TOKEN_SECONDS if exports(engine, SignalKind.INTER_TOKEN_LATENCY) else None


def _seconds(field: str, text: str, kind: SignalKind, engine: Engine, fail: Fail) -> float | None:
    if not text:
        return None
    if not exports(engine, kind):
        raise fail(field, text, f"cannot be kept: engine {engine.name} does not tell this latency")
    try:
        seconds = parse_duration_seconds(text)
    except UnitError as error:
        raise fail(field, text, "is not a duration such as 2s or 100ms") from error
    if seconds <= 0:
        raise fail(field, text, "is not above 0")
    return seconds


def _share(share: Quantity | None, fail: Fail) -> float:
    if share is None:
        return SHARE
    try:
        number = float(parse_quantity(str(share)))
    except (UnitError, OverflowError) as error:
        raise fail("objective.share", share, "is not a number") from error
    if not 0.5 <= number <= 0.9999:
        raise fail("objective.share", share, "is not a share of requests from 0.5 to 0.9999")
    return number
