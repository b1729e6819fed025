"""What a target has taught the law; it survives a change of leader in the status."""

from dataclasses import dataclass, field

from autoscaler.law.memory.forecast import Errors


@dataclass(frozen=True, slots=True)
class GapHistogram:
    """How long replicas were not needed before they were needed again, per bin of `demand.GAP_EDGES_SECONDS`."""

    weights: tuple[float, ...] = ()
    """Replicas."""
    returns: tuple[float, ...] = ()
    """Replicas times the share of the level that they were: how much their absence would have hurt."""
    replicas: float = 0.0
    """Decayed count of finite gaps."""


@dataclass(frozen=True, slots=True)
class Bursts:
    """Work that came too suddenly for a replica to start, and all work; older work counts less (`autoscaler.law.memory.bursts`)."""

    sudden: tuple[tuple[int, float], ...] = ()
    """(step of the level of demand, GPU seconds), by rising level."""
    work: float = 0.0
    """GPU seconds."""
    seconds: float = 0.0
    """Over which the work came."""


@dataclass(frozen=True, slots=True)
class LateCurve:
    """Share of requests that are late, by load of a replica (`autoscaler.law.memory.lateness`)."""

    seen: tuple[float, ...] = ()
    """Requests by class of load, older ones counting less."""
    missed: tuple[float, ...] = ()
    """Those of them that were late."""
    seconds: float = 0.0
    """Since it is learned."""
    floor: float = 0.002
    full: float = 1.0
    steepness: float = 20.0
    usual_steepness: float = 20.0
    prompt_tokens: float = 0.0
    """Of a mean prompt, weighted by its own length, when it was begun; 0: not known."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What a target has taught; survives a change of leader in the status."""

    start_seconds: tuple[float, ...] = ()
    """Latest start-up times, newest last."""
    gaps: GapHistogram = field(default_factory=GapHistogram)
    bursts: Bursts = field(default_factory=Bursts)
    curve: LateCurve = field(default_factory=LateCurve)
    late_average: float = 0.0
    """Share of requests that were late lately, beyond what no replica would mend."""
    hour_seen: float = 0.0
    """How much of the time over which these shares are taken has been seen, 0-1."""
    settled_late_average: float = 0.0
    """The same of those that met settled replicas and no queue left over."""
    requests_per_second: float = 0.0
    """Usual rate of answers."""
    errors: Errors = field(default_factory=Errors)
    """Of forecasts one start-up time ahead."""
