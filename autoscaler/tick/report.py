"""`headroom autoscaler report`: reads the daemon's own metrics out of Prometheus, an hour or more at a time."""

from collections.abc import Iterator
from typing import Final

from autoscaler.tick.shadow import RECORDED, Shadow, merged
from headroom.prometheus.series import Source

STEP_SECONDS: Final = 60.0
_CHUNK_SECONDS: Final = 6 * 3600.0
_GROUP: Final = "namespace, exported_namespace, name"


async def read(source: Source, start: float, end: float, namespace: str = "", name: str = "") -> dict[str, Shadow]:
    """Object -> what was recorded of it in [start, end] (Unix seconds); of one namespace or name where given.

    Raises PrometheusError.
    """
    found: dict[str, Shadow] = {}
    for low, high in _chunks(start, end):
        samples: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for metric in RECORDED:
            answer = await source.ask(question(metric, low, high))
            for key, points in merged((series.labels, series.points) for series in answer).items():
                if _is_asked_for(key, namespace, name):
                    # Some versions give the point at the beginning too, which is the end of the chunk before.
                    samples.setdefault(key, {})[metric] = [point for point in points if point[0] > low]
        for key, of_object in samples.items():
            found.setdefault(key, Shadow()).add(of_object, STEP_SECONDS)
    return {key: shadow for key, shadow in found.items() if shadow.seen_hours}


def question(metric: str, low: float, high: float) -> str:
    """Samples after `low` up to `high`, by the @ modifier: a plain query about the past."""
    return f"(max by ({_GROUP}) ({metric}))[{round(high - low)}s:{STEP_SECONDS:.0f}s] @ {high:.3f}"


def _is_asked_for(key: str, namespace: str, name: str) -> bool:
    of, _, named = key.partition("/")
    return (not namespace or of == namespace) and (not name or named == name)


def _chunks(start: float, end: float) -> Iterator[tuple[float, float]]:
    low = start
    while low < end:
        yield low, min(low + _CHUNK_SECONDS, end)
        low += _CHUNK_SECONDS
