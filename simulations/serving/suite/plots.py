"""Figures of serving runs (needs the extra `plots`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulations.serving.arena import Lane
from simulations.serving.suite.tuning import Point, front


def timeline(lane: Lane, title: str, path: Path) -> None:
    """Demand, replicas and queue over time of one workload under one law."""
    plt = _pyplot()
    sight = lane.sight
    minutes = [time / 60 for time in sight.time]
    arrivals = _per_minute(lane)
    figure, (top, middle, bottom) = plt.subplots(3, 1, sharex=True, figsize=(9, 7), layout="constrained")
    top.plot([at + 0.5 for at in range(len(arrivals))], [count / 60 for count in arrivals], color="#4b6584")
    top.set_ylabel("requests/s")
    top.set_title(title)
    middle.step(minutes, sight.replicas, where="post", label="asked for", color="#fa8231")
    middle.step(minutes, sight.ready, where="post", label="ready", color="#20bf6b")
    middle.set_ylabel("replicas")
    middle.set_ylim(bottom=0)
    middle.legend(loc="upper right")
    bottom.plot(minutes, sight.inside, label="inside", color="#778ca3")
    bottom.plot(minutes, sight.waiting, label="waiting", color="#eb3b5a")
    bottom.set_ylabel("requests")
    bottom.set_xlabel("minutes")
    bottom.legend(loc="upper right")
    figure.savefig(path)
    plt.close(figure)


def attainment(points: Sequence[Point], titles: dict[str, str], path: Path) -> None:
    """Attainment against GPU hours, one colour per law, the common front as a line."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    for law in dict.fromkeys(point.law for point in points):
        own = [point for point in points if point.law == law]
        axes.plot(
            [point.total.gpu_hours for point in own],
            [100 * point.total.attainment for point in own],
            marker="o",
            linestyle="",
            markersize=7 if law == "headroom" else 4,
            label=titles.get(law, law),
        )
    edge = front(points)
    axes.plot([p.total.gpu_hours for p in edge], [100 * p.total.attainment for p in edge], color="#4b6584", linewidth=1)
    axes.set_xlabel("GPU hours")
    axes.set_ylabel("requests within the objective, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path)
    plt.close(figure)


def _per_minute(lane: Lane) -> list[int]:
    counts = [0] * (int(lane.workload.trace.span_seconds / 60) + 1)
    for arrival in lane.workload.trace.arrival_seconds:
        counts[int(arrival / 60)] += 1
    return counts


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def available() -> bool:
    """Whether figures can be drawn here."""
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None
