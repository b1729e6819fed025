"""Devices that kube-scheduler allocates itself (DRA), seen and served through the extender's HTTP.

What kube-scheduler does, the tests write: slices and classes as drivers publish them, claims as it allocates them.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from scheduler.ledger.measured import CardUse
from tests.fakes.apiserver import ApiServer
from tests.fakes.devices import CLAIMS, CLASSES, SLICES, claim, device, device_class, resource_slice, result
from tests.fakes.extender import NODES, PODS, Object, Running, extender

GPU, VRAM = "nvidia.com/gpu", "headroom.dev/vram"
EXAMPLE, GIB = "gpu.example.com", 1024
SERVED = device_class(resource=GPU)
NOT_OFFERED = f"node does not offer {GPU}, neither by a device plugin nor by DRA"
PERHAPS = "a resource claim may hold any of its cards: nothing tells yet which (DRA)"
CLAIMED = "kube-scheduler gives its cards to resource claims (DRA)"
NONE_FREE = "no free device (DRA)"
SEVENTY = f"no card with {70 * GIB} MiB free"


def node(name: str = "n", *, cards: int = 1, annotation: bool = True, plugin: int = 0) -> Object:
    listed = [
        {"id": f"GPU-{name}-{at}", "index": at, "model": "NVIDIA-A100-SXM4-80GB", "vram_mib": 80 * GIB}
        for at in range(cards)
    ]
    devices = {GPU: str(plugin)} if plugin else {}
    return {
        "metadata": {"name": name, "annotations": {"headroom.dev/cards": json.dumps(listed)} if annotation else {}},
        "spec": {},
        "status": {"allocatable": {"cpu": "64", "memory": "512Gi", **devices}},
    }


def published(name: str = "n", *, cards: int = 1, **more: Any) -> Object:
    return resource_slice(name, [device(f"gpu-{at}", f"GPU-{name}-{at}", **more) for at in range(cards)])


def pod(name: str, limits: dict[str, Any] | None = None, **spec: Any) -> Object:
    container = {"name": "main", "resources": {"limits": {key: str(value) for key, value in (limits or {}).items()}}}
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"schedulerName": "headroom", "containers": [container], **spec},
        "status": {},
    }


class World:
    """An extender and its API server, in the words of these tests."""

    def __init__(self, api: ApiServer, running: Running) -> None:
        self.api, self.running, self.state = api, running, running.daemon.state

    async def put(self, path: str, *objects: Object) -> None:
        for each in objects:
            self.api.put(path, each)
        await self.running.caught_up()

    async def ask(self, name: str, limits: dict[str, Any], **spec: Any) -> str:
        """Filter and bind a pod: `placed`, or why the only node refuses it."""
        created = await self.running.create(pod(name, limits, **spec))
        answer = await self.running.filter(created)
        if not answer.get("NodeNames"):
            (why,) = answer["FailedAndUnresolvableNodes"].values()
            return str(why)
        assert await self.running.bind(created, answer["NodeNames"][0]) == {}
        await self.running.caught_up()
        return "placed"

    async def bound(self, name: str, limits: dict[str, Any] | None = None, on: str = "n", **spec: Any) -> str:
        """A pod that kube-scheduler's other profile bound; its UID."""
        each = pod(name, limits, **spec, schedulerName="default-scheduler", nodeName=on)
        created = await self.running.create(each)
        return str(created["metadata"]["uid"])

    def uid(self, name: str) -> str:
        return str(self.api.get(PODS, name)["metadata"]["uid"])

    async def allocate(self, name: str, *devices: str, on: str = "n", extended: bool = True, **more: Any) -> None:
        """What kube-scheduler does in PreBind for a pod: a claim with these devices."""
        results = [result(each, on, **more) for each in devices]
        await self.put(
            CLAIMS, claim(f"{name}-claim", results, pods=[(name, self.uid(name))], node=on, extended=extended)
        )

    def held(self, name: str = "n") -> list[int]:
        row = self.state.fleet.row_of[name]
        return self.state.fleet.held_mib[row, : len(self.state.fleet.nodes[name].cards)].tolist()

    async def remove(self, path: str, name: str, namespace: str = "default") -> None:
        self.api.remove(path, name, namespace)
        await self.running.caught_up()


@contextlib.asynccontextmanager
async def world(
    tmp_path: Path,
    *,
    nodes: Sequence[Object] = (),
    slices: Sequence[Object] = (),
    classes: Sequence[Object] = (),
    claims: Sequence[Object] = (),
    **settings: Any,
) -> AsyncIterator[World]:
    async with ApiServer() as api:
        for path, objects in ((NODES, nodes), (SLICES, slices), (CLASSES, classes), (CLAIMS, claims)):
            for each in objects:
                api.put(path, each)
        async with extender(api, tmp_path, preemption=False, **settings) as running:
            yield World(api, running)
            assert running.daemon.state.breaches() == []


# Seen: what claims hold


async def test_a_claim_of_which_nothing_is_known_may_hold_any_card(tmp_path: Path) -> None:
    """R20: KAI PR#1177, NVIDIA/aicr#332 (a DRA driver beside the device plugin)."""
    wanted = [{"name": "gpu", "resourceClaimTemplateName": "single-gpu"}]
    async with world(tmp_path, nodes=[node()]) as w:
        await w.bound("dra", resourceClaims=wanted)
        assert await w.ask("p", {VRAM: "40Gi"}) == PERHAPS
        await w.remove(PODS, "dra")
        assert await w.ask("q", {VRAM: "40Gi"}) == "placed"


async def test_a_claim_on_something_else_takes_no_card(tmp_path: Path) -> None:
    async with world(
        tmp_path, nodes=[node()], claims=[claim("nic", [result("nic-0", "n", driver="nic.example.com")])]
    ) as w:
        await w.bound("dra", resourceClaims=[{"name": "nic", "resourceClaimName": "nic"}])
        assert await w.ask("p", {VRAM: "40Gi"}) == "placed"


@pytest.mark.parametrize("by_uuid", [True, False])
async def test_a_claim_holds_the_nodes_only_card(tmp_path: Path, *, by_uuid: bool) -> None:
    """K04: a claim of another scheduler's pod on the only card; then 70 GiB through Headroom."""
    bare = resource_slice("n", [{"name": "gpu-0"}], driver=EXAMPLE)
    slices = [published() if by_uuid else bare]
    driver = "gpu.nvidia.com" if by_uuid else EXAMPLE
    classes = [device_class("x", GPU, driver, "")]
    for pin in (False, True):
        async with world(tmp_path, nodes=[node()], slices=slices, classes=classes, pin_claimable_cards=pin) as w:
            await w.bound("dra", resourceClaims=[{"name": "gpu", "resourceClaimName": "dra-claim"}])
            await w.allocate("dra", "gpu-0", extended=False, driver=driver)
            assert w.held() == [80 * GIB if by_uuid else 0]
            assert await w.ask("p", {VRAM: "70Gi"}) == ((SEVENTY if by_uuid else PERHAPS) if pin else CLAIMED)
            assert await w.ask("q", {GPU: 1}) == NONE_FREE


async def test_consumed_memory_counts_and_so_do_pinned_pods_beside_it(tmp_path: Path) -> None:
    shared = published(cards=2, policy={"default": "80Gi"})
    async with world(tmp_path, nodes=[node(cards=2)], slices=[shared], classes=[SERVED], pin_claimable_cards=True) as w:
        await w.bound("dra")
        await w.allocate("dra", "gpu-0", extended=False, consumed={"memory": "30Gi"})
        assert w.held() == [30 * GIB, 0]
        assert await w.ask("p", {VRAM: "20Gi"}) == "placed"
        assert w.held() == [30 * GIB, 20 * GIB]
        assert await w.ask("q", {VRAM: "70Gi"}) == SEVENTY


async def test_a_shared_claim_counts_once_and_ends_with_its_allocation(tmp_path: Path) -> None:
    async with world(tmp_path, nodes=[node(cards=2)], slices=[published(cards=2)], classes=[SERVED]) as w:
        pods = [(name, await w.bound(name)) for name in ("a", "b")]
        await w.put(CLAIMS, claim("shared", [result("gpu-0", "n")], pods=pods))
        assert w.held() == [80 * GIB, 0]
        await w.put(CLAIMS, claim("shared", [result("gpu-0", "n")], pods=pods[:1]))
        assert w.held() == [80 * GIB, 0]
        await w.put(CLAIMS, claim("shared"))
        assert w.held() == [0, 0]


async def test_a_device_that_is_in_no_slice_may_be_any_card(tmp_path: Path) -> None:
    async with world(tmp_path, nodes=[node(cards=2)], classes=[SERVED], pin_claimable_cards=True) as w:
        await w.bound("dra")
        await w.allocate("dra", "gpu-1", extended=False)
        assert await w.ask("p", {VRAM: "10Gi"}) == PERHAPS
        assert json.loads((await w.running.get("/debug/snapshot"))[1])["claim_problems"] == {
            "default/dra-claim": "device gpu.nvidia.com/n/gpu-1 is in no ResourceSlice: it may be any card of the node"
        }
        await w.put(SLICES, published(cards=2))
        assert w.held() == [0, 80 * GIB]
        assert await w.ask("q", {VRAM: "10Gi"}) == "placed"
        assert w.state.devices.problems == {}


async def test_half_a_pool_leaves_open_what_the_other_half_is(tmp_path: Path) -> None:
    half = resource_slice("n", [device("gpu-0", "GPU-n-0")], name="a", slices=2)
    async with world(tmp_path, nodes=[node(cards=2)], slices=[half]) as w:
        assert await w.ask("pinned", {VRAM: "10Gi"}) == CLAIMED
    async with world(tmp_path, nodes=[node(cards=2)], slices=[half], pin_claimable_cards=True) as w:
        await w.bound("dra")
        await w.allocate("dra", "gpu-1", extended=False)
        assert await w.ask("p", {VRAM: "10Gi"}) == PERHAPS
        other = resource_slice("n", [device("gpu-1", "GPU-n-1")], name="b", slices=2)
        await w.put(SLICES, other)
        assert w.held() == [0, 80 * GIB]
        assert await w.ask("q", {VRAM: "10Gi"}) == "placed"


async def test_what_a_claims_pods_use_counts_to_the_claim(tmp_path: Path) -> None:
    async with world(tmp_path, nodes=[node()], slices=[published(policy={"default": "80Gi"})], classes=[SERVED]) as w:
        for name in ("a", "b"):
            await w.bound(name)
        pods = [(name, w.uid(name)) for name in ("a", "b")]
        await w.put(CLAIMS, claim("shared", [result("gpu-0", "n", consumed={"memory": "40Gi"})], pods=pods))
        ledger, at = w.state.ledger, 4e9
        ledger.read("n", {"GPU-n-0": CardUse(at, 45 * GIB, 0, {"default/a": 15 * GIB, "default/b": 30 * GIB})})
        fleet, row = w.state.fleet, w.state.fleet.row_of["n"]
        assert (fleet.excess_mib[row, 0], fleet.foreign_mib[row, 0], fleet.free_mib[row, 0]) == (5 * GIB, 0, 35 * GIB)


# Served: extended resources that kube-scheduler allocates


async def test_a_resource_that_nobody_serves_is_refused_in_words(tmp_path: Path) -> None:
    """R21: dra-driver-nvidia-gpu#738 (DRAExtendedResource), on a node without slices."""
    async with world(tmp_path, nodes=[node()]) as w:
        assert await w.ask("p", {GPU: 1}) == NOT_OFFERED


async def test_an_extended_resource_is_served_by_a_class(tmp_path: Path) -> None:
    """R21, K05: the node advertises nothing, a DeviceClass maps nvidia.com/gpu; one after another until no device is left."""
    async with world(tmp_path, nodes=[node(cards=2)], slices=[published(cards=2)], classes=[SERVED]) as w:
        assert await w.ask("a", {GPU: 1}) == "placed"
        written = w.api.get(PODS, "a")["metadata"]["annotations"]
        assert written == {"headroom.dev/assigned-vram-mib": str(80 * GIB), "headroom.dev/assigned-vram-share": "1.000"}
        assert w.held() == [0, 0]  # which card it is, nobody knows yet
        assert await w.ask("two", {GPU: 2}) == "fewer than 2 free devices (DRA)"
        await w.allocate("a", "gpu-1")
        assert w.held() == [0, 80 * GIB]
        assert await w.ask("b", {GPU: 1}) == "placed"
        assert await w.ask("c", {GPU: 1}) == NONE_FREE
        await w.allocate("b", "gpu-0")
        assert await w.ask("d", {GPU: 1}) == NONE_FREE
        await w.remove(PODS, "a")
        await w.remove(CLAIMS, "a-claim")
        assert await w.ask("e", {GPU: 1}) == "placed"


async def test_pods_of_the_other_profile_count_until_their_claims_are_known(tmp_path: Path) -> None:
    """K05: the same resource through default-scheduler, whose claim the watch shows late."""
    async with world(
        tmp_path, nodes=[node(cards=2)], slices=[published(cards=2)], classes=[SERVED], pin_claimable_cards=True
    ) as w:
        await w.bound("other", {GPU: 1})
        assert await w.ask("p", {VRAM: "70Gi"}) == PERHAPS
        assert await w.ask("a", {GPU: 1}) == "placed"
        assert await w.ask("b", {GPU: 1}) == NONE_FREE
        await w.allocate("other", "gpu-0")
        await w.allocate("a", "gpu-1")
        assert await w.ask("q", {VRAM: "70Gi"}) == SEVENTY


async def test_a_node_with_slices_alone_takes_pods(tmp_path: Path) -> None:
    """No agent, no device plugin, no feature discovery."""
    async with world(tmp_path, nodes=[node(annotation=False)], slices=[published()], classes=[SERVED]) as w:
        assert await w.ask("a", {GPU: 1}) == "placed"
        assert await w.ask("b", {GPU: 1}) == NONE_FREE


async def test_the_device_plugin_goes_first_and_knows_nothing_of_claims(tmp_path: Path) -> None:
    async with world(tmp_path, nodes=[node(plugin=1)], slices=[published()], classes=[SERVED]) as w:
        await w.bound("dra")
        await w.allocate("dra", "gpu-0", extended=False)
        assert await w.ask("p", {GPU: 1}) == "the device plugin could pick a card that is in use"


async def test_a_claim_that_kube_scheduler_takes_back_is_a_promise_again(tmp_path: Path) -> None:
    async with world(tmp_path, nodes=[node(cards=2)], slices=[published(cards=2)], classes=[SERVED]) as w:
        created = await w.running.create(pod("a", {GPU: "1"}))
        assert (await w.running.filter(created))["NodeNames"] == ["n"]
        await w.allocate("a", "gpu-0")
        assert (w.held(), w.state.fleet.promised[0]) == ([80 * GIB, 0], 0)
        await w.remove(CLAIMS, "a-claim")
        assert (w.held(), w.state.fleet.promised[0]) == ([0, 0], 1)
        assert await w.running.bind(created, "n") == {}


async def test_shares_that_the_allocator_gives(tmp_path: Path) -> None:
    """dra-driver-nvidia-gpu --consumable-shares: four of a card; a pod that states more than a share is refused."""
    shared = published(policy={"default": "20Gi"})
    async with world(tmp_path, nodes=[node()], slices=[shared], classes=[SERVED]) as w:
        assert (
            await w.ask("big", {GPU: 1, VRAM: "30Gi"})
            == f"a share that kube-scheduler allocates is smaller than {30 * GIB} MiB (DRA)"
        )
        assert [await w.ask(f"p{at}", {GPU: 1}) for at in range(5)] == ["placed"] * 4 + [NONE_FREE]
        for at in range(4):
            await w.allocate(f"p{at}", "gpu-0", consumed={"memory": "20Gi"})
        assert w.held() == [80 * GIB]
        assert await w.ask("more", {GPU: 1}) == NONE_FREE


async def test_a_pod_that_wants_a_certain_card_must_not_get_another(tmp_path: Path) -> None:
    mixed = resource_slice("n", [device("gpu-0", "GPU-n-0"), device("gpu-1", "GPU-n-1", product="NVIDIA L4", gib=22)])
    async with world(tmp_path, nodes=[node(annotation=False)], slices=[mixed], classes=[SERVED]) as w:
        selecting = {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"}}
        assert await w.ask("p", {GPU: 1}, **selecting) == "kube-scheduler could allocate a card of another model (DRA)"


# News


async def test_classes_and_slices_that_come_late_and_go(tmp_path: Path) -> None:
    async with world(tmp_path, nodes=[node()]) as w:
        assert await w.ask("a", {GPU: 1}) == NOT_OFFERED
        await w.put(SLICES, published())
        assert await w.ask("b", {GPU: 1}) == NOT_OFFERED
        await w.put(CLASSES, SERVED)
        await w.running.until(lambda: not w.state.devices.due)
        assert await w.ask("c", {GPU: 1}) == "placed"
        await w.remove(CLASSES, "gpu.nvidia.com", "")
        await w.running.until(lambda: not w.state.fleet.nodes["n"].allocates(GPU))
        assert await w.ask("d", {GPU: 1}) == NOT_OFFERED
        await w.remove(SLICES, "n-gpu.nvidia.com", "")
        await w.running.until(lambda: not w.state.fleet.nodes["n"].cards[0].claimable)


async def test_a_restart_finds_what_claims_hold(tmp_path: Path) -> None:
    known = claim("c", [result("gpu-0", "n")], pods=[("dra", "uid-1")], node="n")
    async with world(
        tmp_path, nodes=[node(cards=2)], slices=[published(cards=2)], classes=[SERVED], claims=[known]
    ) as w:
        assert w.held() == [80 * GIB, 0]
        assert await w.ask("a", {GPU: 1}) == "placed"
        assert await w.ask("b", {GPU: 1}) == NONE_FREE


async def test_a_cluster_without_the_api_is_as_before(tmp_path: Path) -> None:
    async with ApiServer() as api:
        api.put(NODES, node(plugin=1))
        for path in (CLASSES, SLICES, CLAIMS):
            api.fail("GET", path, status=404, times=1000)
        async with extender(api, tmp_path) as running:
            w = World(api, running)
            assert await w.ask("a", {GPU: 1}) == "placed"
            asked = [each.path for each in api.requests if "resource.k8s.io" in each.path]
            assert sorted(asked) == sorted([CLASSES, SLICES, CLAIMS])


async def test_nothing_is_watched_where_a_setting_says_so(tmp_path: Path) -> None:
    async with world(tmp_path, nodes=[node()], slices=[published()], classes=[SERVED], resource_claims=False) as w:
        await w.bound("dra", resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "single-gpu"}])
        assert await w.ask("p", {VRAM: "10Gi"}) == "placed"
        assert not [each for each in w.api.requests if "resource.k8s.io" in each.path]


async def test_a_pinned_pod_whose_card_is_claimed_is_told(tmp_path: Path) -> None:
    """The setting lets Headroom pick; kube-scheduler, which cannot know, allocates the same card."""
    async with world(tmp_path, nodes=[node()], slices=[published()], classes=[SERVED], pin_claimable_cards=True) as w:
        assert await w.ask("p", {VRAM: "70Gi"}) == "placed"
        await w.bound("dra")
        await w.allocate("dra", "gpu-0", extended=False)
        assert w.state.ledger.overcommitted() == [("n", "GPU-n-0", 150 * GIB, 80 * GIB)]
        events = "/apis/events.k8s.io/v1/events"
        await w.running.until(lambda: bool(w.api.all(events)))
        (event,) = w.api.all(events)
        assert (event["reason"], event["regarding"]["name"]) == ("CardClaimed", "p")
        assert (
            event["note"]
            == "kube-scheduler has given card GPU-n-0 of node n to resource claim default/dra-claim as well"
        )
        await w.remove(CLAIMS, "dra-claim")


async def test_a_reservation_gives_way_to_a_claim(tmp_path: Path) -> None:
    async with world(tmp_path, nodes=[node()], slices=[published()], classes=[SERVED], pin_claimable_cards=True) as w:
        created = await w.running.create(pod("p", {VRAM: "70Gi"}))
        assert (await w.running.filter(created))["NodeNames"] == ["n"]
        await w.bound("dra")
        await w.allocate("dra", "gpu-0", extended=False)
        assert w.state.reservations(0.0) == []
        assert w.held() == [80 * GIB]


# Ranked: pods whose claims kube-scheduler allocates, where Headroom is asked for all pods


async def test_nodes_are_ranked_for_pods_with_claims(tmp_path: Path) -> None:
    """Memory that is free on a card in use is taken before a card that nobody has; nothing is reserved, nothing refused."""
    shared: dict[str, Any] = {"policy": {"default": "80Gi"}}
    wanted = {
        "name": "gpu",
        "exactly": {"deviceClassName": "gpu.nvidia.com", "count": 1, "capacity": {"requests": {"memory": "30Gi"}}},
    }
    async with world(
        tmp_path, nodes=[node("empty"), node("used")], slices=[published("empty", **shared), published("used", **shared)],
        classes=[SERVED], place_pods_without_gpu=True,
    ) as w:  # fmt: skip
        await w.bound("dra", on="used")
        await w.allocate("dra", "gpu-0", on="used", extended=False, consumed={"memory": "40Gi"})
        await w.put(CLAIMS, claim("wanted", requests=[wanted]))
        asking = await w.running.create(pod("p", resourceClaims=[{"name": "gpu", "resourceClaimName": "wanted"}]))
        assert (await w.running.filter(asking))["NodeNames"] == ["used"]
        assert (await w.running.filter(asking, "empty"))["NodeNames"] == ["empty"]
        status, ranking = await w.running.post(
            "/prioritize", {"Pod": asking, "Nodes": None, "NodeNames": ["empty", "used"]}
        )
        assert (status, {each["Host"]: each["Score"] for each in ranking}) == (200, {"empty": 0, "used": 10})
        assert w.state.reservations(0.0) == []


async def test_claims_that_fit_nowhere_by_our_reckoning_are_left_to_kube_scheduler(tmp_path: Path) -> None:
    wanted = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com", "count": 1}}
    async with world(
        tmp_path, nodes=[node()], slices=[published()], classes=[SERVED], place_pods_without_gpu=True
    ) as w:
        await w.bound("dra")
        await w.allocate("dra", "gpu-0", extended=False)
        await w.put(CLAIMS, claim("wanted", requests=[wanted]))
        asking = await w.running.create(pod("p", resourceClaims=[{"name": "gpu", "resourceClaimName": "wanted"}]))
        assert (await w.running.filter(asking))["NodeNames"] == ["n"]
