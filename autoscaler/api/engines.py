"""Which signals an engine gets when an object names none, and which it can have at all. On `headroom.domain.engines`. Pure."""

from typing import Final

from autoscaler.law.inputs import SignalKind
from autoscaler.law.spec import SignalSpec
from headroom.domain.engines import Engine

NEEDS: Final[dict[SignalKind, tuple[tuple[str, ...], ...]]] = {
    SignalKind.WORK: (("prompt_tokens", "output_tokens"),),
    SignalKind.QUEUE: (("waiting",), ("waiting_seconds",)),
    SignalKind.RUNNING: (
        ("in_flight",), ("total_seconds",), ("running", "waiting"), ("running", "waiting_seconds"),
    ),
    SignalKind.KV_CACHE: (("kv_cache",),),
    SignalKind.GPU_UTILIZATION: ((),),  # from the cards' exporters, whatever the engine
    SignalKind.TIME_TO_FIRST_TOKEN: (("time_to_first_token",),),
    SignalKind.INTER_TOKEN_LATENCY: (("inter_token",),),
    SignalKind.REQUEST_LATENCY: (("request",),),
    SignalKind.QUERY: ((),),
}  # fmt: skip
"""A signal kind -> sets of facts, any of which it can be made of."""


def exports(engine: Engine, kind: SignalKind) -> bool:
    """Whether the engine has what a signal of this kind is made of."""
    return any(all(getattr(engine, fact) for fact in facts) for facts in NEEDS[kind])


def default_signals(engine: Engine) -> tuple[SignalSpec, ...]:
    """The signals of an object that names none; empty where it must name some."""
    return tuple(_spec(*signal) for signal in engine.signals)


def fallback(engine: Engine) -> SignalSpec | None:
    """What is read in place of `work` until a token's cost is known."""
    return _spec(*engine.fallback) if engine.fallback else None


def _spec(kind: str, target: float) -> SignalSpec:
    return SignalSpec(SignalKind(kind), target, kind)
