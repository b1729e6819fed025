"""What is asked of one target: plain values, read by `decide`."""

from dataclasses import dataclass
from typing import Final

from autoscaler.law.inputs import SignalKind
from autoscaler.law.rates import RatePolicy


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """One signal and its target.

    Targets: `work` busy share of a replica (up to 2); `queue` and `running` requests per replica; `kvCache` and
    `gpuUtilization` share (0-1); latencies the objective in seconds; `query` the number itself, per replica when
    `per_replica`.
    """

    kind: SignalKind
    target: float
    name: str = ""
    query: str = ""
    per_replica: bool = True
    quantile: float = 0.9
    """Latencies only."""
    capped: bool = False
    """`query` only: the number cannot go above some limit (a share, a slot count), so it may not drive a ratio."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """One direction of `behavior`, with the meaning that the HPA gives it."""

    window_seconds: float | None = None
    """None: learned (down) or none (up)."""
    policies: tuple[RatePolicy, ...] = ()
    largest: bool = True
    disabled: bool = False
    tolerance: float | None = None
    """Share; None: `LawConstants.tolerance`, for `work` `LawConstants.work_tolerance`."""


@dataclass(frozen=True, slots=True)
class ScaleToZero:
    """To zero after an idle time, from zero by the activation signal."""

    idle_seconds: float = 600.0
    threshold: float = 0.0
    """Activation values above it ask for pods."""
    query: str = ""


@dataclass(frozen=True, slots=True)
class Objective:
    """What a request should get, and how many of them. A request meets it when it meets all that is stated."""

    first_token_seconds: float | None = None
    inter_token_seconds: float | None = None
    """Mean over the tokens of a request."""
    request_seconds: float | None = None
    share: float = 0.98


UP_DEFAULT: Final = Scaling(window_seconds=0.0, policies=(RatePolicy(False, 100, 15.0), RatePolicy(True, 4, 15.0)))
DOWN_DEFAULT: Final = Scaling(window_seconds=None, policies=(RatePolicy(False, 25, 30.0), RatePolicy(True, 1, 30.0)))


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """One `InferenceAutoscaler`, defaults filled in."""

    min_replicas: int = 1
    max_replicas: int = 10
    signals: tuple[SignalSpec, ...] = (SignalSpec(SignalKind.WORK, 0.9, "work"),)
    queueing: bool = True
    """Whether the engine batches and queues by itself (LLM engines): utilisation is then a veto, not a load."""
    fallback: SignalSpec | None = SignalSpec(SignalKind.RUNNING, 16.0, "running")
    """Read in place of `work` until a token's cost is known."""
    up: Scaling = UP_DEFAULT
    down: Scaling = DOWN_DEFAULT
    scale_to_zero: ScaleToZero | None = None
    max_gpus: float | None = None
    objective: Objective | None = None
    """None: sized by the target of `work` alone."""
    burst_factor: float = 0.0
    """Demand of this multiple of the usual one (mean of about an hour) is to be met without notice."""
    enforce_capacity: bool = True
    """Raise only as far as the cluster can hold the pod; off where a node autoscaler reacts to pending pods."""
