"""The embedded simulated cluster, with an extender of a few lines at the other end of the wire."""

import contextlib
import json
import random
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from headroom import names
from headroom.domain.model import Card, GpuNode, Sharing
from simulations.embedded.cluster import NAMESPACE, Cluster
from simulations.embedded.kube_scheduler import Extender

A_CARD_MIB = 1000


class FirstFit:
    """An extender that takes the first offered node with a card that nobody has, and writes the card in the Binding."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._shares = max(card.slices for node in cluster.nodes for card in node.cards)
        self.filtered: list[str] = []
        self.bind_error = ""

    async def filter(self, request: web.Request) -> web.Response:
        args = await request.json()
        self.filtered.append(args["Pod"]["metadata"]["name"])
        left = [name for name in args["NodeNames"] if self._card(name) is not None]
        refused = {name: "no card with enough free" for name in args["NodeNames"] if name not in left}
        return web.json_response({"NodeNames": left[:1], "FailedAndUnresolvableNodes": refused})

    async def bind(self, request: web.Request) -> web.Response:
        args = await request.json()
        if self.bind_error:
            return web.json_response({"error": self.bind_error})
        card = self._card(args["Node"])
        body = {
            "metadata": {
                "uid": args["PodUID"],
                "annotations": {names.ANNOTATION_ASSIGNED_CARDS: f"{args['Node']}-{card}"},
            },
            "target": {"name": args["Node"]},
        }
        url = f"{self._cluster.api.url}/api/v1/namespaces/{NAMESPACE}/pods/{args['PodName']}/binding"
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
            error = "" if response.status == 200 else (await response.json())["message"]
        return web.json_response({"error": error})

    def _card(self, node: str) -> int | None:
        pods = self._cluster.store.items("pods")
        taken = [pod["metadata"]["annotations"].get(names.ANNOTATION_ASSIGNED_CARDS) for pod in pods]
        cards = [(name, index) for name, index in self._cluster.kubelets.free_mib if name == node]
        return next((i for name, i in cards if taken.count(f"{name}-{i}") < self._shares), None)


@contextlib.asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[FirstFit]:
    extender = FirstFit(cluster)
    app = web.Application()
    app.add_routes([web.post("/filter", extender.filter), web.post("/bind", extender.bind)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    await cluster.api.start()
    async with aiohttp.ClientSession() as session:
        cluster.use_scheduler(Extender(session, f"http://127.0.0.1:{runner.addresses[0][1]}"))
        yield extender
    await runner.cleanup()
    await cluster.api.stop()


def node(name: str, *, cards: int = 1, slices: int = 1, cpu_milli: int = 8000) -> GpuNode:
    return GpuNode(
        name=name,
        cards=tuple(Card(f"{name}-{i}", i, "NVIDIA-A10", A_CARD_MIB * slices, slices=slices) for i in range(cards)),
        sharing=Sharing.TIME_SLICING if slices > 1 else Sharing.EXCLUSIVE,
        resource=names.RESOURCE_NVIDIA_GPU,
        cpu_milli=cpu_milli,
        memory_mib=65536,
    )


def template(**limits: str) -> dict[str, object]:
    named = {name.replace("__", "/").replace("_", "."): value for name, value in limits.items()}
    limits = {names.RESOURCE_VRAM: f"{A_CARD_MIB}Mi", "cpu": "1", **named}
    return {
        "metadata": {"labels": {}},
        "spec": {"schedulerName": "headroom", "containers": [{"name": "engine", "resources": {"limits": limits}}]},
    }


async def test_pods_are_bound_until_the_cards_are_full_and_the_rest_says_why() -> None:
    cluster = Cluster([node("a"), node("b")], random.Random(1))
    async with running(cluster) as extender:
        cluster.apply("llm", template(), 3, A_CARD_MIB)
        started = await cluster.settle()
        assert len(started) == 2
        (waiting,) = cluster.pending()
        pod = cluster.store.get("pods", (NAMESPACE, waiting))
        assert pod["status"]["conditions"][0]["message"] == "0 nodes are available: 2 no card with enough free."
        assert sorted(cluster.kubelets.free_mib.values()) == [0, 0]
        assert len(extender.filtered) == 3


async def test_a_refused_pod_rests_until_a_pod_goes_and_its_back_off_is_over() -> None:
    cluster = Cluster([node("a")], random.Random(1))
    async with running(cluster) as extender:
        cluster.apply("llm", template(), 2, A_CARD_MIB)
        (first,) = await cluster.settle()
        cluster.engine.run(100)
        assert await cluster.settle() == []
        assert len(extender.filtered) == 2, "a resting pod costs no calls"
        cluster.remove(first)
        (second,) = await cluster.settle()
        assert second != first
        assert cluster.pending() == []


async def test_a_bind_error_backs_off_and_is_tried_again() -> None:
    cluster = Cluster([node("a")], random.Random(1))
    async with running(cluster) as extender:
        extender.bind_error = "node is gone"
        cluster.apply("llm", template(), 1, A_CARD_MIB)
        assert await cluster.settle() == []
        extender.bind_error = ""
        assert await cluster.settle() == [], "one second of back-off"
        cluster.engine.run(1)
        assert len(await cluster.settle()) == 1


async def test_in_tree_filters_leave_out_nodes_without_cpu_labels_or_slices() -> None:
    cluster = Cluster([node("no-cpu", cpu_milli=500), node("one-slice"), node("good", cards=2)], random.Random(1))
    async with running(cluster):
        wants_two = template(nvidia_com__gpu="2")
        cluster.apply("pair", wants_two, 1, A_CARD_MIB)
        await cluster.settle()
        (refs,) = cluster.kubelets.cards.values()
        assert refs == (("good", 0), ("good", 1))


async def test_kubelet_deals_slices_evenly_and_reports_out_of_memory() -> None:
    cluster = Cluster([node("a", cards=2, slices=2)], random.Random(1))
    async with running(cluster):
        cluster.apply("big", template(nvidia_com__gpu="1"), 3, 1500)
        started = await cluster.settle()
        cards = [cluster.kubelets.cards[name][0][1] for name in started]
        assert cards == [0, 1, 0]
        assert cluster.kubelets.out_of_memory == [started[2]]
        for name in started:
            cluster.remove(name)
        assert set(cluster.kubelets.free_mib.values()) == {2000}


@pytest.mark.parametrize(
    ("uid", "message"),
    [("someone-else", "Precondition failed"), (None, 'already assigned to node "a"')],
)
async def test_the_api_refuses_a_second_binding_and_a_foreign_uid(uid: str | None, message: str) -> None:
    cluster = Cluster([node("a"), node("b")], random.Random(1))
    async with running(cluster), aiohttp.ClientSession() as session:
        cluster.apply("llm", template(), 1, A_CARD_MIB)
        (name,) = cluster.pods_of("llm")
        await cluster.settle()
        body = {"metadata": {"uid": uid} if uid else {}, "target": {"name": "b"}}
        url = f"{cluster.api.url}/api/v1/namespaces/{NAMESPACE}/pods/{name}/binding"
        async with session.post(url, json=body) as response:
            assert response.status == 409
            assert message in (await response.json())["message"]
        assert cluster.store.get("pods", (NAMESPACE, name))["spec"]["nodeName"] == "a"


async def test_a_watch_starts_at_the_version_of_the_list() -> None:
    cluster = Cluster([node("a")], random.Random(1))
    async with running(cluster), aiohttp.ClientSession() as session:
        async with session.get(f"{cluster.api.url}/api/v1/nodes") as response:
            version = (await response.json())["metadata"]["resourceVersion"]
        patch = {"metadata": {"annotations": {"seen": "yes"}}}
        async with session.patch(f"{cluster.api.url}/api/v1/nodes/a", json=patch) as response:
            assert response.status == 200
        query = {"watch": "1", "resourceVersion": version}
        async with session.get(f"{cluster.api.url}/api/v1/nodes", params=query) as response:
            event = json.loads(await response.content.readline())
        assert event["type"] == "MODIFIED"
        assert event["object"]["metadata"]["annotations"]["seen"] == "yes"


async def test_an_eviction_replaces_the_pod() -> None:
    cluster = Cluster([node("a")], random.Random(1))
    async with running(cluster), aiohttp.ClientSession() as session:
        cluster.apply("llm", template(), 1, A_CARD_MIB)
        (name,) = await cluster.settle()
        url = f"{cluster.api.url}/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction"
        async with session.post(url, json={}) as response:
            assert response.status == 200
        (other,) = cluster.pods_of("llm")
        assert other != name
        assert cluster.pending() == [other]
