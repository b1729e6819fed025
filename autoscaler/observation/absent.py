"""Why nobody exports a metric: what there is in its place, and how to say so. Pure."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from autoscaler.observation.answers import Snapshot
from autoscaler.observation.cluster.objects import PodView
from autoscaler.observation.queries import COUNTERS, GAUGES, Plan
from headroom.domain.engines import Measure, Metric
from headroom.prometheus.series import Answer

_ENDINGS: Final = ("_total", "_sum", "_count", "_bucket")
_PREFIXES: Final = ("kserve_", "ray_")
_ASKED_OF_AN_ENGINE: Final = 4
_SECONDS: Final = 300
"""Long enough for every interval that is read."""


def words(metric: Metric, snapshot: Snapshot, pods: Sequence[PodView]) -> str:
    """Of a metric that none of these pods exports: what there is of that name, else under a similar one."""
    text = f"no pod exports {' or '.join(metric.names)}"
    if metric.names and metric.names[0].endswith("_bucket"):
        text += ", the classic buckets of a histogram"
    named = next((snapshot.named[name] for name in metric.names if name in snapshot.named), None)
    hint = next((snapshot.hints[name] for name in metric.names if name in snapshot.hints), "")
    if named is not None and (not hint or not named.joined):  # series without an owner may be these pods' own
        text += f": {_of_others(named.series, named.labels, pods)}"
        return f"{text}; {hint}" if hint else text
    return f"{text}: {hint}" if hint else text


def _of_others(series: int, labels: Iterable[str], pods: Sequence[PodView]) -> str:
    shown = ", ".join(sorted(set(labels) - {"__name__"}))
    lacking = [name for name in ("namespace", "pod") if name not in set(labels)]
    text = f"{series} series of that name have the labels {shown}"
    if not lacking:
        return f"{text} and are of other pods"
    where = next((pod.ip for pod in pods if pod.ip), "")
    return f"{text}: {' and '.join(lacking)} missing, and their instance is no address of these pods{f' ({where})' if where else ''}"


def unknown_names(plan: Plan, snapshot: Snapshot, lacking: Collection[str]) -> list[str]:
    """Names that were asked for and of which nothing was found, nor of the older names of the same metric; and those `lacking`."""
    found: list[str] = []
    for metric in plan.metrics:
        group = COUNTERS if plan.facts[metric.names[0]].measure is Measure.COUNTER else GAUGES
        if group in snapshot.errors:
            continue
        nothing = not any(name in snapshot.named for name in metric.names)
        found += [name for name in metric.names if nothing or name in lacking]
    for kind, names in plan.latencies.items():
        if kind not in snapshot.errors:
            buckets = [f"{name}_bucket" for name in names]
            found += [name for name in buckets if not snapshot.buckets.get(kind) or name in lacking]
    return list(dict.fromkeys(found))


def question(names: Iterable[str]) -> str:
    """A query for series under similar names. Not of all: platforms rename the metrics of an engine alike."""
    asked: list[str] = []
    of_kind: Counter[tuple[str, bool]] = Counter()
    for name in names:
        kind = _prefix(name), name.endswith("_bucket")
        of_kind[kind] += 1
        if of_kind[kind] <= _ASKED_OF_AN_ENGINE:
            asked.append(name)
    spelled = [other for name in asked for other in _usual(name)]
    cores = "|".join(dict.fromkeys(_pattern(_core(name)) for name in asked))
    either = "|".join([*dict.fromkeys(spelled), f".*({cores})({'|'.join(_ENDINGS)})?"])
    return f'{{__name__=~"{either}"}}[{_SECONDS}s]'


def hints(names: Iterable[str], answer: Answer) -> dict[str, str]:
    """What the answer to `question` says of each of these names, where it says something."""
    there = Counter(series.labels.get("__name__", "") for series in answer)
    there.update(odd.labels.get("__name__", "") for odd in answer.odd)  # native histograms hold no number
    found: dict[str, str] = {}
    rules: dict[str, str] = {}
    names = list(names)
    for name in names:
        other = _renamed(name, there)
        if other:
            published, here = rule = _rule(name, other)
            rules.setdefault(published, here)
            found[name] = f"{there[other]} series are named {other}: metricNames {_shown(rule)} would read them"
        elif text := _other_form(name, there):
            found[name] = text
    for name in names:
        for published, here in rules.items():
            if name not in found and name.startswith(published.partition("*")[0]) and "*" in published:
                found[name] = f"others are named {here}: metricNames {_shown((published, here))} would read them"
    return found


def _usual(name: str) -> list[str]:
    """The names that KServe, Ray and collectors are known to give it."""
    bare = [name, *([name.removesuffix("_total")] if name.endswith("_total") else [])]
    flat = [*bare, *(one.replace(":", "_") for one in bare)]
    return [
        other
        for one in dict.fromkeys(flat)
        for other in (one, *(prefix + one for prefix in _PREFIXES))
        if other != name
    ]


def _core(name: str) -> str:
    for ending in _ENDINGS:
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name


def _pattern(core: str) -> str:
    return re.escape(core).replace("\\", "\\\\").replace(":", "[:_]")


def _renamed(name: str, there: Mapping[str, int]) -> str:
    """The name under which this one is there, when it is there under another."""
    core = _core(name)
    ending = name.removeprefix(core)
    endings = {ending, ""} if ending in ("_total", "") else {ending}
    similar = re.compile(f".*{re.escape(core).replace(':', '[:_]')}({'|'.join(_ENDINGS)})?")
    for other in sorted(there):
        match = similar.fullmatch(other)
        if match and other != name and (match.group(1) or "") in endings:
            return other
    return ""


def _other_form(name: str, there: Mapping[str, int]) -> str:
    """What is there in place of a part of a histogram."""
    core = _core(name)
    ending = name.removeprefix(core)
    if ending not in ("_bucket", "_sum", "_count"):
        return ""
    if core in there:
        return (
            f"{core} is there without its parts, as a native histogram: have Prometheus scrape classic histograms too"
        )
    parts = sorted(other for other in there if _core(other) == core)
    return f"there is {', '.join(parts)}, but no {name}: no classic histogram" if parts else ""


def _prefix(name: str) -> str:
    found = re.match(r"[A-Za-z0-9]+[:_]|:[a-z]+:[a-z]+:", name)
    return found.group() if found else name


def _rule(name: str, other: str) -> tuple[str, str]:
    """A map entry that reads it: a pattern where all names of the engine are changed alike."""
    prefix = _prefix(name)
    rest = name.removeprefix(prefix)
    bare = rest.removesuffix("_total")
    if rest and other.endswith(rest):
        return f"{prefix}*", f"{other.removesuffix(rest)}*"
    if rest != bare and other.endswith(bare):
        return f"{prefix}*_total", f"{other.removesuffix(bare)}*"
    return name, other


def _shown(rule: tuple[str, str]) -> str:
    return f'{{"{rule[0]}": "{rule[1]}"}}'
