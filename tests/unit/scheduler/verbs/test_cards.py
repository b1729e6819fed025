"""`/v1/cards` and the snapshot: who holds what, what is used, how busy; and the checks of the ledger step by step."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headroom.prometheus.series import DeviceJobs
from scheduler.cluster.measured import Labels, Line, busy_of
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import GIB, NODES, Running, extender, node, pod
from tests.fakes.prometheus import FakePrometheus, series

USED, POD = "headroom_card_memory_used_bytes", "headroom_pod_memory_used_bytes"
OUTSIDE, BUSY, DCGM_BUSY = (
    "headroom_card_unattributed_memory_bytes",
    "headroom_card_utilization_ratio",
    "DCGM_FI_DEV_GPU_UTIL",
)


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        server.put(NODES, node("a", 80, 80))
        server.put(NODES, node("b", 40))
        server.put(
            NODES,
            {"metadata": {"name": "cpu-only"}, "spec": {}, "status": {"allocatable": {"cpu": "8", "memory": "8Gi"}}},
        )
        yield server


async def cards(running: Running, query: str = "") -> dict[str, Any]:
    status, text = await running.get(f"/v1/cards{query}")
    assert status == 200
    found: dict[str, Any] = json.loads(text)
    return found


async def test_who_holds_what_and_who_waits(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
        await running.place(await running.create(pod("small", vram="10Gi")), "a")
        await running.place(await running.create(pod("large", vram="30Gi")), "b")
        await running.filter(await running.create(pod("offered", vram="5Gi")), "a")
        await running.filter(await running.create(pod("huge", vram="300Gi")))
        page = await cards(running)
        assert [one["node"] for one in page["nodes"]] == ["a", "b"]
        (card,) = page["nodes"][1]["cards"]
        assert card == {
            "id": "b-gpu0", "index": 0, "model": "NVIDIA-A100-SXM4-80GB", "usable_mib": 40 * GIB, "declared_mib": 30 * GIB,
            "used_mib": None, "foreign_mib": 0, "free_mib": 10 * GIB, "busy_ratio": None,
            "pods": [{"pod": "default/large", "share_mib": 30 * GIB, "used_mib": None, "state": "bound"}],
        }  # fmt: skip
        held = [(one["pod"], one["state"]) for card in page["nodes"][0]["cards"] for one in card["pods"]]
        assert held == [("default/small", "bound"), ("default/offered", "reserved")]
        assert page["waiting"]["refused"] == 1
        assert [one["pod"] for one in page["refused_pods"]] == ["default/huge"]
        assert (page["measured"], page["busy"]) == (
            "not read: what pods declare counts",
            "not read: no Prometheus is set",
        )
        one = await cards(running, "?node=b")
        assert one["nodes"] == page["nodes"][1:]


@pytest.mark.parametrize(
    ("query", "said"), [("?node=none", "no node 'none'"), ("?node=" + "x" * 1000, "is known to have cards")]
)
async def test_a_node_that_is_not_there(api: ApiServer, tmp_path: Path, query: str, said: str) -> None:
    async with extender(api, tmp_path) as running:
        status, text = await running.get(f"/v1/cards{query}")
        assert status == 404
        assert said in json.loads(text)["Error"]


async def test_what_is_used_and_how_busy(api: ApiServer, tmp_path: Path) -> None:
    async with FakePrometheus().serve() as prometheus:
        now, place = time.time(), {"node": "b", "card": "b-gpu0"}
        prometheus.answer(USED, series({"__name__": USED}, (now, 22 * 2**30), **place))
        prometheus.answer(OUTSIDE, series({"__name__": OUTSIDE}, (now, 2**31), **place))
        prometheus.answer(POD, series({"__name__": POD}, (now, 20 * 2**30), namespace="default", pod="llm", **place))
        prometheus.answer(BUSY, series({"__name__": BUSY}, (now - 15, 0.5), (now, 0.7), **place))
        prometheus.answer(DCGM_BUSY, series({"__name__": DCGM_BUSY}, (now, 40.0), Hostname="a", UUID="a-gpu1"))
        async with extender(api, tmp_path, prometheus_url=prometheus.url) as running:
            await running.place(await running.create(pod("llm", vram="10Gi")), "b")
            page = await cards(running)
            (card,) = page["nodes"][1]["cards"]
            assert (card["used_mib"], card["busy_ratio"]) == (22 * GIB, pytest.approx(0.6))
            assert card["pods"][0]["used_mib"] == 20 * GIB
            assert [one["busy_ratio"] for one in page["nodes"][0]["cards"]] == [None, pytest.approx(0.4)]
            asked = len([query for query in prometheus.queries if BUSY in query])
            await cards(running)
            assert len([query for query in prometheus.queries if BUSY in query]) == asked, "kept for a while"


async def test_nothing_is_known_of_busy_cards_while_prometheus_fails(api: ApiServer, tmp_path: Path) -> None:
    async with (
        FakePrometheus().serve() as prometheus,
        extender(api, tmp_path, prometheus_url=prometheus.url) as running,
    ):
        prometheus.fail(500)
        page = await cards(running)
        assert page["busy"].startswith("not read: ")
        assert len(page["nodes"]) == 2


def line(*points: tuple[float, float], job: str = "headroom-agent", metric: str = BUSY, **labels: str) -> Line:
    return Line(Labels(name=metric, job=job, **labels), tuple(points))


async def test_which_samples_say_how_busy_a_card_is(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path) as running:
        nodes = running.daemon.state.fleet.nodes
        found = busy_of(
            [
                line((10, 0.9), (50, 0.2), (60, 0.4), node="b", card="b-gpu0"),
                line((70, 1.0), node="b", card="b-gpu0", job="a-tenants"),  # newer, not believed
                line((60, 7.0), node="a", card="a-gpu0"),  # no share
                line((60, 0.5), node="a", card="a-gpu9"),  # no such card
                line((60, 0.5), node="a", card="a-gpu1", metric="another"),
                line((5, 0.5), node="a", card="a-gpu1"),  # too old
            ],
            BUSY, nodes, DeviceJobs(), oldest=20,
        )  # fmt: skip
        assert found == {"b": {"b-gpu0": pytest.approx(0.3)}}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(
            lambda state: state.fleet.held_mib.__setitem__((0, 0), 77), "a: held_mib is", id="memory of a card"
        ),
        pytest.param(
            lambda state: state.fleet.cpu_free_milli.__setitem__(0, 1), "a: cpu_free_milli is", id="CPU of a node"
        ),
        pytest.param(lambda state: state.ledger.priorities.update([5]), "priorities are counted", id="priorities"),
        pytest.param(
            lambda state: state.ledger.books.by_node["a"].clear(), "is not in the list of node a", id="a list"
        ),
        pytest.param(lambda state: state.ledger.books.by_namespace.clear(), "namespaces are counted", id="namespaces"),
    ],
)
async def test_the_snapshots_check_finds_what_is_wrong(api: ApiServer, tmp_path: Path, spoil: Any, said: str) -> None:
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("llm", vram="30Gi")), "a")
        page = json.loads((await running.get("/debug/snapshot?check"))[1])
        assert page["breaches"] == []
        spoil(running.daemon.state)
        page = json.loads((await running.get("/debug/snapshot?check"))[1])
        assert any(said in breach for breach in page["breaches"]), page["breaches"]
        assert "breaches" not in json.loads((await running.get("/debug/snapshot"))[1])
