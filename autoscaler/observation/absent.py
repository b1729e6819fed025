"""Why nobody exports a metric: what there is in its place, and how to say so. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from autoscaler.observation.answers import Snapshot
from autoscaler.observation.cluster.objects import PodView
from autoscaler.observation.queries import COUNTERS, GAUGES, Plan
from headroom.domain.engines import Measure, Metric
from headroom.prometheus.series import Series, newest

_ENDINGS: Final = ("_total", "_sum", "_count", "_bucket")
_MOST_ASKED: Final = 24


def words(metric: Metric, snapshot: Snapshot, pods: Sequence[PodView]) -> str:
    """Of a metric that none of these pods exports: what there is of that name, else under a similar one."""
    text = f"no pod exports {' or '.join(metric.names)}"
    for name in metric.names:
        named = snapshot.named.get(name)
        if named is not None:
            return f"{text}: {_of_others(named.series, named.labels, pods)}"
    for name in metric.names:
        if name in snapshot.hints:
            return f"{text}: {snapshot.hints[name]}"
    return text


def _of_others(series: int, labels: Iterable[str], pods: Sequence[PodView]) -> str:
    shown = ", ".join(sorted(set(labels) - {"__name__"}))
    lacking = [name for name in ("namespace", "pod") if name not in set(labels)]
    text = f"{series} series of that name have the labels {shown}"
    if not lacking:
        return f"{text} and are of other pods"
    where = next((pod.ip for pod in pods if pod.ip), "")
    return f"{text}: {' and '.join(lacking)} missing, and their instance is no address of these pods{f' ({where})' if where else ''}"


def unknown_names(plan: Plan, snapshot: Snapshot) -> frozenset[str]:
    """Names that were asked for and of which nothing at all was found, nor of the older names of the same metric."""
    found: set[str] = set()
    for metric in plan.metrics:
        group = COUNTERS if plan.facts[metric.names[0]].measure is Measure.COUNTER else GAUGES
        if group not in snapshot.errors and not any(name in snapshot.named for name in metric.names):
            found.update(metric.names)
    for kind, names in plan.latencies.items():
        if kind not in snapshot.errors and not snapshot.buckets.get(kind):
            found.update(f"{name}_bucket" for name in names)
    return frozenset(found)


def question(names: Iterable[str]) -> str:
    """PromQL for which similar names there are, and how many series of each."""
    cores = list(dict.fromkeys(_core(name) for name in sorted(names)))[:_MOST_ASKED]
    either = "|".join(re.escape(core).replace(":", "[:_]").replace("\\", "\\\\") for core in cores)
    pattern = f".*({either})({'|'.join(_ENDINGS)})?"
    return f'count by (__name__) ({{__name__=~"{pattern}"}})'


def hints(names: Iterable[str], answer: Iterable[Series]) -> dict[str, str]:
    """What the answer to `question` says of each of these names, where it says something."""
    there: dict[str, int] = {}
    for series in answer:
        point = newest(series.points)
        name = series.labels.get("__name__", "")
        if point is not None and name:
            there[name] = int(point[1])
    found = {name: _hint(name, there) for name in names}
    return {name: text for name, text in found.items() if text}


def _core(name: str) -> str:
    for ending in _ENDINGS:
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name


def _hint(name: str, there: Mapping[str, int]) -> str:
    core = _core(name)
    similar = re.compile(f"(.*)({re.escape(core).replace(':', '[:_]')})({'|'.join(_ENDINGS)})?")
    matches = [(other, found) for other in sorted(there) if (found := similar.fullmatch(other))]
    if core in there and name != core and not name.endswith("_total"):
        return (
            f"{core} is there without its parts, as a native histogram: have Prometheus scrape classic histograms too"
        )
    ending = name.removeprefix(core)
    for other, found in matches:
        if other != name and (found.group(3) or "") in (ending, "" if ending == "_total" else ending):
            rule = _rule(name, other)
            return f"{there[other]} series are named {other}: metricNames {rule} would read them"
    if matches and ending in ("_bucket", "_sum", "_count"):
        return f"there is {', '.join(other for other, _ in matches[:3])}, but no {name}: no classic histogram"
    return ""


def _rule(name: str, other: str) -> str:
    """A map entry that would read it: a pattern where all names of the engine are changed alike."""
    prefix = re.match(r"[a-z0-9]+[:_]", name)
    if prefix is None:
        return f'{{"{name}": "{other}"}}'
    rest = name.removeprefix(prefix.group())
    if other.endswith(rest):
        return f'{{"{prefix.group()}*": "{other.removesuffix(rest)}*"}}'
    bare = rest.removesuffix("_total")
    if rest.endswith("_total") and other.endswith(bare):
        return f'{{"{prefix.group()}*_total": "{other.removesuffix(bare)}*"}}'
    return f'{{"{name}": "{other}"}}'
