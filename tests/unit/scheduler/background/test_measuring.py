"""Measured memory in the running extender: at the start, while Prometheus is well, and while it is not."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import GIB, NODES, PODS, Running, extender, node, pod
from tests.fakes.prometheus import FakePrometheus, series

AGENT = "headroom_card_memory_used_bytes"
OUTSIDE = "headroom_card_unattributed_memory_bytes"
POD = "headroom_pod_memory_used_bytes"
WAKE = "headroom.dev/vram-freed"


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        server.put(NODES, node("gpu", 80))
        yield server


class Exporter(FakePrometheus):
    """What the agent of node `gpu` says of its one card."""

    def show(self, outside_gib: float = 0.0, *, age: float = 0.0, **pods_gib: float) -> None:
        """`outside_gib` is in use by no pod."""
        at, place = time.time() - age, {"node": "gpu", "card": "gpu-gpu0"}
        lines = [
            series({"__name__": AGENT}, (at, (outside_gib + sum(pods_gib.values())) * 2**30), **place),
            series({"__name__": OUTSIDE}, (at, outside_gib * 2**30), **place),
        ]
        lines += [
            series({"__name__": POD}, (at, gib * 2**30), namespace="default", pod=name, **place)
            for name, gib in pods_gib.items()
        ]
        self.answer(".", *lines)


@pytest.fixture
async def exporter() -> AsyncIterator[Exporter]:
    async with Exporter().serve() as serving:
        assert isinstance(serving, Exporter)
        yield serving


async def explained(running: Running, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await running.get(f"/v1/explain?pod=default/{name}"))[1])
    return found


def free_gib(running: Running) -> float:
    return float(running.daemon.state.fleet.free_mib[0, 0]) / GIB


def wakes(api: ApiServer) -> int:
    return len([ask for ask in api.asked("PATCH", "^/api/v1/nodes/") if WAKE in ask.body["metadata"]["annotations"]])


async def test_nothing_is_decided_before_the_first_reading(api: ApiServer, tmp_path: Path, exporter: Exporter) -> None:
    """Case s09: an undeclared process holds 70 of 80 GiB, and Prometheus takes its time."""
    exporter.show(70)
    exporter.stall()
    async with extender(api, tmp_path, prometheus_url=exporter.url, wait_ready=False) as running:
        waits = await running.create(pod("waits", vram="40Gi"))
        await running.until(lambda: bool(exporter.queries))
        status, page = await running.get("/readyz")
        assert (status, "not ready measured: not read yet" in page) == (503, True)
        status, answer = await running.post("/filter", {"Pod": waits, "NodeNames": ["gpu"]})
        assert (status, answer) == (503, {"Error": "not ready: the cluster's state is still being read"})
        exporter.recover()
        await running.until(lambda: running.daemon.health.ready)
        assert (await running.filter(waits))["NodeNames"] == []
        assert "ok measured: 1 cards at the first reading" in (await running.get("/readyz"))[1]


async def test_a_start_does_not_wait_for_prometheus_for_ever_and_says_so(
    api: ApiServer, tmp_path: Path, exporter: Exporter
) -> None:
    exporter.fail(503, "starting")
    async with extender(api, tmp_path, prometheus_url=exporter.url, measured_start_seconds=0.2) as running:
        assert "not read within 0.2 s: what pods declare counts until it is" in (await running.get("/readyz"))[1]
        waits = await running.create(pod("waits", vram="40Gi"))
        assert (await running.filter(waits))["NodeNames"] == ["gpu"]
        assert (await explained(running, "waits"))["measured_vram"] == "not read: what pods declare counts"
        exporter.show(70)
        exporter.recover()
        await running.until(lambda: running.daemon.state.measured_cards == 1)
        assert "ok measured: 1 cards at the first reading" in (await running.get("/readyz"))[1]


async def test_a_node_that_flaps_keeps_what_was_measured(api: ApiServer, tmp_path: Path, exporter: Exporter) -> None:
    """Case s09: one unreadable annotation and back; the next reading is a quarter of a minute away."""
    exporter.show(70)
    async with extender(api, tmp_path, prometheus_url=exporter.url) as running:
        assert free_gib(running) == 10
        whole = api.get(NODES, "gpu")
        cards = whole["metadata"]["annotations"]["headroom.dev/cards"]
        for text in ('[{"id": "broken', cards):
            whole["metadata"]["annotations"]["headroom.dev/cards"] = text
            api.put(NODES, whole)
            await running.caught_up()
        assert free_gib(running) == 10
        api.remove(NODES, "gpu")
        await running.caught_up()
        api.put(NODES, node("gpu", 80))
        await running.caught_up()
        assert free_gib(running) == 10


async def test_what_a_stranger_holds_counts_until_it_is_gone_or_stale(
    api: ApiServer, tmp_path: Path, exporter: Exporter
) -> None:
    exporter.show(70)
    settings: dict[str, Any] = {"prometheus_url": exporter.url, "measured_max_age_seconds": 5.0, "preemption": False}
    async with extender(api, tmp_path, **settings) as running:
        poll = running.daemon.measured
        assert poll is not None
        waits = await running.create(pod("waits", vram="20Gi"))
        assert (await running.filter(waits))["NodeNames"] == []
        for state in ("measured", "foreign"):
            assert await running.metric("headroom_node_vram_bytes", node="gpu", state=state) == 70 * 2**30
        found = await explained(running, "waits")
        assert found["nodes"][0]["now"].endswith("measured use exceeds what pods declare on 1 (70.0 GiB no pod's)")
        assert found["measured_vram"] == "fresh for 1 card"
        exporter.show(10)
        await poll.read_once()
        await running.until(lambda: wakes(api) == 1)
        assert (await running.filter(waits))["NodeNames"] == ["gpu"]
        exporter.show(80, age=60)
        await poll.read_once()
        assert (await explained(running, "waits"))["measured_vram"] == "too old: what pods declare counts"
        assert free_gib(running) == 60


async def test_while_prometheus_fails_the_last_reading_counts_until_its_age_bound(
    api: ApiServer, tmp_path: Path, exporter: Exporter
) -> None:
    exporter.show(70)
    now = time.time()
    async with extender(
        api, tmp_path, prometheus_url=exporter.url, measured_max_age_seconds=5.0, unix_clock=lambda: now
    ) as running:
        poll = running.daemon.measured
        assert poll is not None
        exporter.fail(503)
        await poll.read_once()
        assert free_gib(running) == 10
        now += 6.0
        await poll.read_once()
        assert free_gib(running) == 80
        assert await running.metric("headroom_measured_reads_total", result="failed") == 2


async def test_no_pod_is_evicted_for_memory_that_a_stranger_holds(
    api: ApiServer, tmp_path: Path, exporter: Exporter
) -> None:
    """Case s07: the low pod holds 40 GiB and uses none yet, a stranger uses 30; a critical pod wants 60."""
    exporter.show(30)
    async with extender(api, tmp_path, prometheus_url=exporter.url) as running:
        low = await running.create(pod("low", vram="40Gi", priority=0))
        await running.place(low)
        assert running.daemon.measured is not None
        exporter.show(30)
        await running.daemon.measured.read_once()
        critical = await running.create(pod("critical", vram="60Gi", priority=100))
        assert (await running.filter(critical))["NodeNames"] == []
        await running.calm()
        assert api.asked("POST", "/eviction$") == []
        exporter.show(0, low=0)
        await running.daemon.measured.read_once()
        assert (await running.filter(critical))["NodeNames"] == []
        await running.until(lambda: bool(api.asked("POST", "/eviction$")))


async def test_a_successor_takes_a_deleted_pods_memory_at_once(
    api: ApiServer, tmp_path: Path, exporter: Exporter
) -> None:
    exporter.show(0)
    async with extender(api, tmp_path, prometheus_url=exporter.url) as running:
        old = await running.create(pod("old", vram="60Gi"))
        await running.place(old)
        exporter.show(0, old=60)
        assert running.daemon.measured is not None
        await running.daemon.measured.read_once()
        assert free_gib(running) == 20
        api.remove(PODS, "old")
        await running.caught_up()
        new = await running.create(pod("new", vram="60Gi"))
        assert await running.place(new) == "gpu"


async def test_series_that_match_no_card_and_jobs_that_are_not_believed_are_named(
    api: ApiServer, tmp_path: Path, exporter: Exporter
) -> None:
    """Case A01 (dcgm-exporter#78): Hostname is the exporter's pod; the second card is of no node here."""
    now = time.time()
    dcgm = {"__name__": "DCGM_FI_DEV_FB_USED", "Hostname": "dcgm-exporter-x7", "job": "dcgm-exporter"}
    spoken_for = {"__name__": POD, "node": "gpu", "card": "gpu-gpu0", "exported_pod": "llama", "job": "kubernetes-pods"}
    exporter.answer(
        ".",
        series(dcgm, (now, 70.0 * GIB), UUID="gpu-gpu0"),
        series(dcgm, (now, 1.0), UUID="GPU-elsewhere"),
        series(spoken_for, (now, 2.0**30)),
    )
    async with extender(api, tmp_path, prometheus_url=exporter.url) as running:
        assert free_gib(running) == 10
        waits = await running.create(pod("waits", vram="20Gi"))
        assert (await running.filter(waits))["NodeNames"] == []
        assert (await explained(running, "waits"))["measured_vram"] == (
            "fresh for 1 card; 1 series match no card, such as GPU-elsewhere of dcgm-exporter-x7; "
            "1 series of jobs that are not among device_jobs left out: kubernetes-pods"
        )
        assert await running.metric("headroom_measured_series_left_out", why="unmatched") == 1
        assert await running.metric("headroom_measured_series_left_out", why="doubted") == 1
