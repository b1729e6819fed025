"""What a target's own scaler has cost and missed beside what Headroom asked for, from the daemon's recorded metrics. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from headroom.prometheus.series import Point

Samples = Mapping[str, Sequence[Point]]
"""Of one object: metric -> points, oldest first."""

REPLICAS: Final = "headroom_autoscaler_replicas"
READY: Final = "headroom_autoscaler_ready_replicas"
WANTED: Final = "headroom_autoscaler_wanted_replicas"
NEEDED: Final = "headroom_autoscaler_needed_replicas"
START_UP: Final = "headroom_autoscaler_start_up_seconds"
RECORDED: Final = (REPLICAS, READY, WANTED, NEEDED, START_UP)
_USUAL_START_SECONDS: Final = 120.0


@dataclass(slots=True)
class Shadow:
    """One object over a window. Hours are of replicas, but for `seen`."""

    seen_hours: float = 0.0
    """How much of the window all metrics are there for."""
    replica_hours: float = 0.0
    """What the target's scale asked for, whoever wrote it."""
    shadow_hours: float = 0.0
    """What Headroom asked for."""
    short_hours: float = 0.0
    """What the load needed and was not ready."""
    shadow_short_hours: float = 0.0
    """The same, had the scale followed Headroom: a replica counts as ready once it has been asked for as long as a start takes."""
    needed_hours: float = 0.0

    def add(self, samples: Samples, step_seconds: float) -> None:
        """Take in a stretch of samples that lie `step_seconds` apart; times at which one is missing are left out."""
        columns = _columns(samples)
        if columns is None:
            return
        at, replicas, ready, wanted, needed, start_up = columns
        ready_by_shadow = _available(at, wanted, start_up)
        hours = step_seconds / 3600
        self.seen_hours += len(at) * hours
        self.replica_hours += float(replicas.sum()) * hours
        self.shadow_hours += float(wanted.sum()) * hours
        self.needed_hours += float(needed.sum()) * hours
        self.short_hours += float(np.maximum(needed - ready, 0).sum()) * hours
        self.shadow_short_hours += float(np.maximum(needed - ready_by_shadow, 0).sum()) * hours


Column = npt.NDArray[np.float64]


def _columns(samples: Samples) -> list[Column] | None:
    """Times, then a column for each of RECORDED; None where they share no time. The start-up time may be missing."""
    by_time = {name: dict(samples.get(name, ())) for name in RECORDED}
    times = sorted(set.intersection(*(set(by_time[name]) for name in RECORDED if name != START_UP)))
    if not times:
        return None
    starts = by_time[START_UP]
    rows = [
        [time, *(by_time[name][time] for name in RECORDED[:-1]), starts.get(time) or _USUAL_START_SECONDS]
        for time in times
    ]
    return list(np.asarray(rows, dtype=np.float64).T)


def _available(at: Column, wanted: Column, start_up: Column) -> Column:
    """The lowest count asked for within the last start-up time, at each moment."""
    first = np.searchsorted(at, at - start_up, side="left")
    return np.array([wanted[low : number + 1].min() for number, low in enumerate(first)])


def words(found: Mapping[str, Shadow], hourly_cost: float, unit: str) -> str:
    """A table of all objects and their sum; `hourly_cost` of a replica in `unit`, 0 for hours alone."""
    if not found:
        return "Prometheus has none of the autoscaler's metrics of that time: is the autoscaler scraped?"
    rows = [["OBJECT", "SEEN h", "REPLICA h NOW", "WITH HEADROOM", "SAVED", "SHORT h NOW", "WITH HEADROOM"]]
    if hourly_cost:
        rows[0][4:4] = ["COST NOW", "WITH HEADROOM"]
    total = Shadow()
    for key, shadow in sorted(found.items()):
        rows.append(_row(key, shadow, hourly_cost, unit))
        for name in Shadow.__slots__:
            setattr(total, name, getattr(total, name) + getattr(shadow, name))
    if len(found) > 1:
        rows.append(_row("all", total, hourly_cost, unit))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([*lines, "", *NOTES])


NOTES: Final = (
    "REPLICA h: what the scale asked for, and what Headroom asked for at those times.",
    "SHORT h: replicas that the load needed and that were not ready, times hours. With Headroom it is an estimate: a replica counts",
    "from when it has been asked for as long as a start takes; capacity, quotas and rates are left out. Signals that go step by step",
    "(queue, latencies, shares above their target) look at the replicas that are there, and so at the scaler that is.",
)


def _row(key: str, shadow: Shadow, hourly_cost: float, unit: str) -> list[str]:
    saved = 1 - shadow.shadow_hours / shadow.replica_hours if shadow.replica_hours else 0.0
    cost = [f"{hours * hourly_cost:,.2f} {unit}".rstrip() for hours in (shadow.replica_hours, shadow.shadow_hours)]
    return [
        key,
        f"{shadow.seen_hours:,.1f}",
        f"{shadow.replica_hours:,.1f}",
        f"{shadow.shadow_hours:,.1f}",
        *(cost if hourly_cost else []),
        f"{100 * saved:.0f} %",
        f"{shadow.short_hours:,.2f}",
        f"{shadow.shadow_short_hours:,.2f}",
    ]


def merged(found: Iterable[tuple[Mapping[str, str], Sequence[Point]]]) -> dict[str, list[Point]]:
    """Series of one metric by object (`namespace/name`): two autoscalers say the same, and of each moment one is kept."""
    points: dict[str, dict[float, float]] = {}
    for labels, series in found:
        # Scraped without honorLabels, the object's own namespace is renamed.
        namespace = labels.get("exported_namespace") or labels.get("namespace", "")
        kept = points.setdefault(f"{namespace}/{labels.get('name', '')}", {})
        for at, value in series:
            kept[at] = max(value, kept.get(at, value))
    return {key: sorted(kept.items()) for key, kept in points.items()}
