"""Reads what doctor looks at from the API server and Prometheus. What may not be read is noted, and the rest is looked at."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec

from headroom import wire
from headroom.commands.doctor.facts import LISTS, Facts, Metrics
from headroom.domain.engines import ENGINES
from headroom.kube.calls import listed
from headroom.kube.client import Forbidden, KubeClient, KubeError, NotFound
from headroom.prometheus.client import PrometheusError, PrometheusSource


async def look(kube: KubeClient, system: str, source: PrometheusSource | None, now: float) -> Facts:
    """Read everything at once. Raises KubeError where the API server does not answer at all."""
    facts = Facts(system, now)
    with contextlib.suppress(NotFound):
        facts.version = str(msgspec.json.decode(await kube.request("GET", "/version")).get("gitVersion", ""))
    await asyncio.gather(
        *(_list(kube, facts, kind, path.format(system=system)) for kind, path in LISTS.items()),
        _typed(kube, facts, "/api/v1/nodes", wire.NODE, facts.nodes),
        _typed(kube, facts, "/api/v1/pods", wire.POD, facts.pods),
        _metrics(facts, source),
    )
    return facts


async def _list(kube: KubeClient, facts: Facts, kind: str, path: str) -> None:
    try:
        facts.lists[kind] = msgspec.json.decode(await kube.request("GET", path, timeout_seconds=30)).get("items") or []
    except NotFound:
        facts.absent.add(kind)
        facts.lists[kind] = []
    except Forbidden:
        facts.forbidden.append(path)
    except KubeError as error:
        facts.unread[path] = str(error)


async def _typed(kube: KubeClient, facts: Facts, path: str, decoder: wire.Decoder[Any], into: list[Any]) -> None:
    try:
        async for item in listed(kube, path):
            into.append(decoder.decode(item))  # noqa: PERF401 - what came before a failure stays
    except Forbidden:
        facts.forbidden.append(path)
    except KubeError as error:
        facts.unread[path] = str(error)


async def _metrics(facts: Facts, source: PrometheusSource | None) -> None:
    if source is None:
        return
    facts.metrics = found = Metrics()
    try:
        for series in await source.query("count by (job) (up == 0)"):
            found.jobs_down[series.labels.get("job", "?")] = round(series.points[-1][1])
        found.agents = await _count(source, "count(headroom_card_memory_total_bytes)")
        found.dcgm = await _count(source, "count(DCGM_FI_DEV_FB_USED)")
        for name, metrics in _engine_metrics().items():
            pods = await _count(
                source, " or ".join(f"count(count by (namespace, pod) ({metric}))" for metric in metrics)
            )
            if pods:
                found.engines[name] = pods
    except PrometheusError as error:
        found.reachable, found.trouble = False, str(error)


async def _count(source: PrometheusSource, promql: str) -> int:
    return sum(round(series.points[-1][1]) for series in await source.query(promql))


def _engine_metrics() -> Mapping[str, tuple[str, ...]]:
    """A metric that tells each engine, under all of its names."""
    found = {}
    for engine in ENGINES.values():
        first = next(
            (metric for metric in (engine.running, engine.waiting, engine.in_flight, engine.finished) if metric), None
        )
        if first is not None:
            found[engine.name] = first.names
    return found
