"""Filter, prioritize and bind over HTTP, with the state that they leave behind."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import GIB, NODES, PODS, Running, extender, node, pod


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        yield server


@pytest.fixture
async def running(api: ApiServer, tmp_path: Path) -> AsyncIterator[Running]:
    api.put(NODES, node("big", 80, 80))
    api.put(NODES, node("small", 16))
    async with extender(api, tmp_path, preemption=False, naming_ahead=False) as ready:
        yield ready


def held_mib(running: Running, name: str) -> list[int]:
    fleet = running.daemon.state.fleet
    return fleet.held_mib[fleet.row_of[name]][: len(fleet.nodes[name].cards)].tolist()


async def test_a_pod_is_given_one_node_and_bound_with_its_cards(running: Running) -> None:
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
    await running.until(lambda: running.daemon.state.bound_node(wanted["metadata"]["uid"]))
    assert sum(held_mib(running, "big")) == 20 * GIB


async def test_the_reservation_counts_before_the_bind(running: Running) -> None:
    first, second = [await running.create(pod(name, vram="70Gi")) for name in ("first", "second")]
    third = await running.create(pod("third", vram="70Gi"))
    assert (await running.filter(first))["NodeNames"] == ["big"]
    assert (await running.filter(second))["NodeNames"] == ["big"]
    answer = await running.filter(third)
    assert answer["NodeNames"] == []
    assert answer["FailedAndUnresolvableNodes"] == dict.fromkeys(("big", "small"), "no card with 71680 MiB free")
    assert sorted(held_mib(running, "big")) == [70 * GIB, 70 * GIB]


async def test_a_pod_without_a_gpu_passes_untouched(running: Running) -> None:
    plain = await running.create(pod("web"))
    assert await running.filter(plain, "small", "big") == {"NodeNames": ["small", "big"]}
    assert await running.bind(plain, "small") == {}
    assert running.api.get(PODS, "web")["spec"]["nodeName"] == "small"
    assert (
        "annotations" not in running.api.get(PODS, "web")["metadata"]
        or not running.api.get(PODS, "web")["metadata"]["annotations"]
    )


@pytest.fixture
async def placing_all(api: ApiServer, tmp_path: Path) -> AsyncIterator[Running]:
    api.put(NODES, node("alpha", 80, 80))
    api.put(NODES, node("omega", 80, 80))
    async with extender(
        api, tmp_path, preemption=False, naming_ahead=False, place_pods_without_gpu=True, policy="bestfit"
    ) as ready:
        yield ready


def plain_pod(name: str, cpu: str, **spec: Any) -> dict[str, Any]:
    return pod(name, limits={"cpu": cpu, "memory": "1Gi"}, **spec)


async def test_where_pods_without_a_gpu_are_placed_too_their_cpu_counts_at_once_and_no_cards_are_written(
    placing_all: Running,
) -> None:
    running = placing_all
    first = await running.create(plain_pod("first", "10"))
    (chosen,) = (await running.filter(first))["NodeNames"]
    fleet = running.daemon.state.fleet
    assert fleet.cpu_free_milli[fleet.row_of[chosen]] == 54_000
    second = await running.create(plain_pod("second", "10"))
    assert (await running.filter(second))["NodeNames"] == [chosen], "best fit keeps together"
    assert await running.bind(first, chosen) == {}
    assert not running.api.get(PODS, "first")["metadata"].get("annotations")
    await running.until(lambda: running.daemon.state.bound_node(first["metadata"]["uid"]))
    assert fleet.cpu_free_milli[fleet.row_of[chosen]] == 44_000
    assert running.daemon.state.ledger.check() == []


async def test_pods_without_a_gpu_go_to_nodes_without_cards_first_and_are_never_refused(placing_all: Running) -> None:
    running = placing_all
    web = await running.create(plain_pod("web", "10"))
    assert len((await running.filter(web))["NodeNames"]) == 1
    assert (await running.filter(web, "alpha", "host-1", "omega", "host-2"))["NodeNames"] == ["host-1", "host-2"]
    assert running.daemon.state.holding(web["metadata"]["uid"]) is None
    assert await running.bind(web, "host-2") == {}
    assert running.api.get(PODS, "web")["spec"]["nodeName"] == "host-2"
    other = await running.create(plain_pod("other", "10", affinity=PREFERRED))
    assert (await running.filter(other))["NodeNames"] == ["alpha", "omega"], (
        "its preferences are kube-scheduler's to weigh"
    )
    turned_down = await running.create(plain_pod("turned-down", "10"))
    offered = [(await running.filter(turned_down))["NodeNames"] for _ in range(4)]
    assert offered[0] != offered[1]
    assert all(offered)


async def test_a_pod_that_comes_back_unbound_is_offered_the_next_best_and_then_starts_over(running: Running) -> None:
    running.api.put(NODES, node("other", 80))
    wanted = await running.create(pod("llm", vram="20Gi"))
    offered = [(await running.filter(wanted))["NodeNames"][0] for _ in range(3)]
    assert set(offered[:2]) == {"big", "other"}
    assert offered[2] == offered[0]


async def test_only_offered_nodes_are_chosen_whatever_the_length_of_the_list(running: Running) -> None:
    for at in range(400):
        running.api.put(NODES, node(f"many-{at:03d}", 16))
    wanted = await running.create(pod("llm", vram="12Gi"))
    offered = [f"many-{at:03d}" for at in range(399, 0, -1)]
    first = (await running.filter(wanted, *offered))["NodeNames"]
    assert len(first) == 1
    assert first[0] in offered
    other = await running.create(pod("other", vram="12Gi"))
    assert (await running.filter(other, "many-000"))["NodeNames"] == ["many-000"]


async def test_keys_in_any_case_are_understood(running: Running) -> None:
    wanted = await running.create(pod("llm", vram="20Gi"))
    status, answer = await running.post("/filter", {"pod": wanted, "nodes": None, "nodenames": ["big"]})
    assert (status, answer) == (200, {"NodeNames": ["big"]})
    body = {"podName": "llm", "podNamespace": "default", "podUID": wanted["metadata"]["uid"], "node": "big"}
    assert await running.post("/bind", body) == (200, {})


async def test_whole_node_objects_come_back_as_they_were_sent(running: Running) -> None:
    wanted = await running.create(pod("llm", vram="20Gi"))
    nodes = [running.api.get(NODES, name) for name in ("small", "big")]
    status, answer = await running.post(
        "/filter", {"Pod": wanted, "Nodes": {"metadata": {}, "items": nodes}, "NodeNames": None}
    )
    assert status == 200
    assert answer["Nodes"]["items"] == [nodes[1]]
    too_large = await running.create(pod("huge", vram="200Gi"))
    _, answer = await running.post("/filter", {"Pod": too_large, "Nodes": {"items": nodes}})
    assert answer["Nodes"]["items"] == []
    assert set(answer["FailedAndUnresolvableNodes"]) == {"small", "big"}


PREFERRED = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}}


async def test_a_pod_with_preferences_gets_every_node_that_fits_and_scores(running: Running) -> None:
    running.api.put(NODES, node("other", 80))
    wanted = await running.create(pod("llm", vram="20Gi", affinity=PREFERRED))
    answer = await running.filter(wanted)
    assert set(answer["NodeNames"]) == {"big", "other"}
    assert answer["FailedAndUnresolvableNodes"] == {"small": "no card with 20480 MiB free"}
    status, scores = await running.post("/prioritize", {"Pod": wanted, "NodeNames": answer["NodeNames"]})
    assert status == 200
    assert {entry["Host"] for entry in scores} == {"big", "other"}
    assert all(0 <= entry["Score"] <= 10 for entry in scores)
    assert max(entry["Score"] for entry in scores) == 10
    for chosen in ("big", "other"):
        if held_mib(running, chosen) == [0] * len(held_mib(running, chosen)):
            break
    # kube-scheduler prefers the node that was not reserved: the reservation moves.
    assert await running.bind(wanted, chosen) == {}
    assert sum(sum(held_mib(running, name)) for name in ("big", "other")) == 20 * GIB
    assert sum(held_mib(running, chosen)) == 20 * GIB


async def test_scored_mode_leaves_the_choice_to_kube_scheduler(api: ApiServer, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        api.put(NODES, node(name, 80))
    async with extender(api, tmp_path, answer="scored", policy="binpack-vram") as running:
        first = await running.create(pod("first", vram="30Gi"))
        assert set((await running.filter(first))["NodeNames"]) == {"a", "b", "c"}
        assert await running.bind(first, "b") == {}
        wanted = await running.create(pod("llm", vram="20Gi"))
        assert set((await running.filter(wanted))["NodeNames"]) == {"a", "b", "c"}
        _, scores = await running.post("/prioritize", {"Pod": wanted, "NodeNames": ["a", "b", "c"]})
        assert max(scores, key=lambda entry: entry["Score"])["Host"] == "b"


async def test_prioritize_without_a_filter_before_it_scores_afresh(running: Running) -> None:
    wanted = await running.create(pod("llm", vram="20Gi"))
    status, scores = await running.post("/prioritize", {"Pod": wanted, "NodeNames": ["big", "small", "nowhere"]})
    assert status == 200
    assert scores == [{"Host": "big", "Score": 10}, {"Host": "small", "Score": 0}, {"Host": "nowhere", "Score": 0}]


async def test_slices_go_where_the_device_plugin_will_put_them(running: Running) -> None:
    running.api.put(NODES, node("shared", 24, 24, slices=4))
    for number, card in ((1, "shared-gpu0"), (2, "shared-gpu1")):
        wanted = await running.create(pod(f"triton-{number}", vram="8Gi", gpus=1))
        assert (await running.filter(wanted, "shared"))["NodeNames"] == ["shared"]
        assert await running.bind(wanted, "shared") == {}
        annotations = running.api.get(PODS, f"triton-{number}")["metadata"]["annotations"]
        assert annotations["headroom.dev/assigned-cards"] == card
        assert annotations["headroom.dev/assigned-mode"] == "slice"


async def test_several_cards_are_distinct(running: Running) -> None:
    wanted = await running.create(pod("mixtral", vram="60Gi", gpus=2))
    assert await running.place(wanted) == "big"
    annotations = running.api.get(PODS, "mixtral")["metadata"]["annotations"]
    assert sorted(annotations["headroom.dev/assigned-cards"].split(",")) == ["big-gpu0", "big-gpu1"]


@pytest.mark.parametrize(
    ("limits", "mode", "mib"),
    [({"headroom.dev/vram": "10Gi"}, "pinned", 10 * GIB), ({"nvidia.com/gpu": "1"}, "slice", 80 * GIB)],
)
async def test_a_copied_assignment_is_overwritten_by_the_binding(
    tmp_path: Path, limits: dict[str, str], mode: str, mib: int
) -> None:
    """L08 HAMi#987, where no admission policy takes it off."""
    written = {
        "assigned-cards": "gone",
        "assigned-vram-mib": "1",
        "assigned-mode": "pinned",
        "kubelet-cards": "gpu-gpu0",
    }
    async with ApiServer() as api:
        api.put(NODES, node("gpu", 80))
        async with extender(api, tmp_path) as running:
            copied = pod("copied", limits=limits)
            copied["metadata"]["annotations"] = {f"headroom.dev/{key}": text for key, text in written.items()}
            await running.place(await running.create(copied))
            await running.caught_up()
            found = api.get(PODS, "copied")["metadata"]["annotations"]
            assert [found[f"headroom.dev/{key}"] for key in written][:3] == ["gpu-gpu0", str(mib), mode]
            assert mode == "pinned" or not found["headroom.dev/kubelet-cards"]
            assert running.daemon.state.ledger.problems == {}
            assert running.daemon.state.breaches() == []


async def test_an_assignment_that_its_owner_moves_ends_nobodys_reservation(tmp_path: Path) -> None:
    """s04: it was counted on the card that somebody else had just been promised."""
    async with ApiServer() as api:
        api.put(NODES, node("gpu", 80, 80))
        async with extender(api, tmp_path, naming_ahead=False) as running:
            await running.place(await running.create(pod("hog", vram="70Gi")))
            other = await running.create(pod("other", vram="60Gi"))
            assert (await running.filter(other))["NodeNames"] == ["gpu"]
            (promised,) = running.daemon.state.ledger.reservations()
            moved = api.get(PODS, "hog")
            moved["metadata"]["annotations"]["headroom.dev/assigned-cards"] = f"gpu-gpu{promised.placement.cards[0]}"
            api.put(PODS, moved)
            await running.caught_up()
            assert running.daemon.state.ledger.reservations() == [promised]
            assert await running.bind(other, "gpu") == {}
            assert running.daemon.state.breaches() == []
