"""Filter, prioritize and bind over HTTP, with the state that they leave behind."""

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import GIB, NODES, PODS, Running, extender, node, pod


@pytest.fixture
async def api():
    async with ApiServer() as server:
        yield server


@pytest.fixture
async def running(api, tmp_path):
    api.put(NODES, node("big", 80, 80))
    api.put(NODES, node("small", 16))
    async with extender(api, tmp_path, preemption=False, naming_ahead=False) as ready:
        yield ready


def held_mib(running: Running, name: str) -> list[int]:
    fleet = running.daemon.state.fleet
    return fleet.held_mib[fleet.row_of[name]][: len(fleet.nodes[name].cards)].tolist()


async def test_a_pod_is_given_one_node_and_bound_with_its_cards(running):
    wanted = await running.create(pod("llm", vram="20Gi"))
    answer = await running.filter(wanted)
    assert answer == {"NodeNames": ["big"]}
    assert await running.bind(wanted, "big") == {}
    bound = running.api.get(PODS, "llm")
    assert bound["spec"]["nodeName"] == "big"
    assert bound["metadata"]["annotations"] == {
        "headroom.dev/assigned-cards": "big-gpu0",
        "headroom.dev/assigned-vram-mib": str(20 * GIB),
        "headroom.dev/assigned-vram-share": "0.250",
        "headroom.dev/assigned-mode": "pinned",
    }
    await running.until(lambda: running.daemon.state.is_bound(wanted["metadata"]["uid"]))
    assert sum(held_mib(running, "big")) == 20 * GIB
