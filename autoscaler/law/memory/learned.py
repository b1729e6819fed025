"""What a target has taught the law; it survives a change of leader in the status."""

from dataclasses import dataclass, field


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
class Learned:
    """What a target has taught; survives a change of leader in the status."""

    start_seconds: tuple[float, ...] = ()
    """Latest start-up times, newest last."""
    gaps: GapHistogram = field(default_factory=GapHistogram)
    bursts: Bursts = field(default_factory=Bursts)
