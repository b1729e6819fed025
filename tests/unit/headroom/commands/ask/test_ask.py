"""`headroom explain` and `headroom fit`: the deciding extender is found and asked through the API server, and said in words."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from headroom.commands.ask.cli import pod_of
from headroom.commands.ask.extender import AskError, deciding_extender
from headroom.commands.ask.words import asked, explained, fitted
from headroom.kube.aio import AioKubeClient, connect
from headroom.kube.kubeconfig import namespace_of

LEASES = "/apis/coordination.k8s.io/v1/namespaces/headroom-system/leases/headroom-extender"
PODS = "/api/v1/namespaces/headroom-system/pods"


class Cluster:
    """An API server with a lease, pods, and a proxy to extenders that write down what they are asked."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.pods: list[dict[str, Any]] = []
        self.answer: tuple[int, Any] = 200, {}
        self.asked: list[tuple[str, str, str, Any]] = []

    async def handle(self, request: web.Request) -> web.Response:
        if request.path == LEASES:
            return (
                web.json_response(self.lease, status=200)
                if self.lease
                else web.json_response({"code": 404}, status=404)
            )
        if request.path == PODS:
            return web.json_response({"items": self.pods})
        body = await request.json() if request.can_read_body else None
        self.asked.append((request.method, request.path, request.query_string, body))
        status, answer = self.answer
        return web.json_response(answer, status=status)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def kube(cluster: Cluster, tmp_path: Path) -> AsyncIterator[AioKubeClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", cluster.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "ai"}}],
        "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    client = await connect(str(tmp_path / "kubeconfig"))
    yield client
    await client.close()
    await runner.cleanup()


def running(name: str, phase: str = "Running") -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"phase": phase}}


class TestWhoIsAsked:
    async def test_the_holder_of_the_lease_and_no_standby(self, cluster: Cluster, kube: AioKubeClient) -> None:
        cluster.lease = {"spec": {"holderIdentity": "headroom-scheduler-abc_8901_1f2e"}}
        cluster.pods = [running("headroom-scheduler-xyz")]
        cluster.answer = 200, {"pod": "ai/llm"}
        extender = await deciding_extender(kube, "headroom-system")
        assert await extender.get("/v1/explain", [("pod", "ai/llm")]) == {"pod": "ai/llm"}
        assert cluster.asked == [("GET", f"{PODS}/headroom-scheduler-abc:8901/proxy/v1/explain", "pod=ai/llm", None)]

    async def test_the_only_one_where_there_is_no_lease(self, cluster: Cluster, kube: AioKubeClient) -> None:
        cluster.pods = [running("one"), running("old", "Failed")]
        extender = await deciding_extender(kube, "headroom-system")
        await extender.post("/v1/fit", {"pod": {}})
        assert cluster.asked == [("POST", f"{PODS}/one:8901/proxy/v1/fit", "", {"pod": {}})]

    @pytest.mark.parametrize(
        ("lease", "pods", "said"),
        [
            ({"spec": {"holderIdentity": ""}}, [], "is held by nobody: no extender decides now"),
            (None, [], "no extender runs in namespace headroom-system: is Headroom installed there?"),
            (None, [running("a"), running("b")], "2 extenders run in headroom-system without a lease"),
        ],
    )
    async def test_nobody_to_ask(
        self, cluster: Cluster, kube: AioKubeClient, lease: Any, pods: list[dict[str, Any]], said: str
    ) -> None:
        cluster.lease, cluster.pods = lease, pods
        with pytest.raises(AskError, match=said.replace("?", r"\?")):
            await deciding_extender(kube, "headroom-system")

    async def test_the_extenders_own_words_are_passed_on(self, cluster: Cluster, kube: AioKubeClient) -> None:
        cluster.pods, cluster.answer = [running("one")], (404, {"Error": "nothing is known of pod ai/x"})
        extender = await deciding_extender(kube, "headroom-system")
        with pytest.raises(AskError, match=r"headroom-system/one: nothing is known of pod ai/x"):
            await extender.get("/v1/explain", [("pod", "ai/x")])


class TestWords:
    def test_a_refused_pod(self) -> None:
        answer = {
            "pod": "ai/llm", "outcome": "refused", "seconds_ago": 65.2, "stage": "refused",
            "reasons": {"no card with 20480 MiB free": 3, "card model": 1},
            "request": {"count": 1, "mode": "pinned", "vram_mib": 20480, "milli": 0, "resource": "", "models": ["NVIDIA-L40S"]},
            "nodes": [{"node": "n1", "fits": False, "reason": "no card with 20480 MiB free", "now": "best of 4 cards has 12.0 GiB free"}],
            "measured_vram": "fresh for 4 cards",
        }  # fmt: skip
        text = explained(answer)
        assert "refused, 65 s ago" in text
        assert "asks for: 20.0 GiB of 1 card (pinned mode, of NVIDIA-L40S)" in text
        assert text.index("3 nodes: no card with 20480 MiB free") < text.index("1 node: card model")
        assert "n1  no card with 20480 MiB free  best of 4 cards has 12.0 GiB free" in text

    def test_a_placed_pod_says_where(self) -> None:
        placement = {"node": "n1", "cards": ["GPU-a"], "share_mib": [18432], "mode": "pinned"}
        text = explained({"pod": "ai/llm", "outcome": "bound", "seconds_ago": 7300, "placement": placement})
        assert "bound on node n1 (GPU-a: 18.0 GiB; pinned mode), 2 h ago" in text

    def test_a_reservation_that_is_over_is_not_told_as_a_placement(self) -> None:
        placement = {"node": "n1", "cards": ["GPU-a"], "share_mib": [18432], "mode": "pinned"}
        text = explained({"pod": "ai/llm", "outcome": "expired", "seconds_ago": 90, "placement": placement})
        assert (
            "was placed on node n1 (GPU-a: 18.0 GiB; pinned mode); that reservation is over: it expired before" in text
        )

    def test_nodes_that_kube_scheduler_does_not_offer_are_counted(self) -> None:
        answer = {"pod": "ai/llm", "not_offered": {"untolerated taint {x: y}": 2}, "not_judged": ["volumes"]}
        assert explained(answer).splitlines()[1:] == [
            "  2 nodes that kube-scheduler does not offer: untolerated taint {x: y}",
            "  not judged here, so that kube-scheduler may refuse more: volumes",
        ]

    @pytest.mark.parametrize(
        ("request_", "words"),
        [
            ({"count": 2, "mode": "slice", "resource": "nvidia.com/gpu"}, "2 nvidia.com/gpu (slice mode)"),
            ({"count": 1, "mode": "pinned", "milli": 250}, "250 thousandths of 1 card (pinned mode)"),
            ({"count": 2, "mode": "pinned", "vram_mib": 1024}, "1.0 GiB of 2 cards (pinned mode)"),
        ],
    )
    def test_demands(self, request_: dict[str, Any], words: str) -> None:
        assert asked(request_) == words

    def test_how_many_fit_and_why_not_more(self) -> None:
        answer = {"fits": 3, "nodes": {"b": 1, "a": 2}, "reasons": {"no time slice free": 4}, "not_judged": ["volumes"]}
        assert fitted(answer, 100).splitlines() == [
            "3 more pods like this fit", "  2 on a", "  1 on b", "why not more:", "  4 nodes: no time slice free",
            "not judged, so that kube-scheduler may still refuse: volumes",
        ]  # fmt: skip

    def test_a_limit_is_never_told_as_the_answer(self) -> None:
        assert fitted({"fits": 10, "nodes": {"a": 10}}, 10).startswith("at least 10 more pods")


class TestManifests:
    def test_a_template_becomes_a_pod_of_its_workload(self) -> None:
        spec = {"containers": [{"name": "c"}]}
        deployment = {
            "kind": "Deployment",
            "metadata": {"name": "llm", "namespace": "ai"},
            "spec": {"template": {"spec": spec}},
        }
        service = {"kind": "Service", "metadata": {"name": "llm"}}
        pod = pod_of(yaml.safe_dump_all([service, deployment]), "x.yaml", "")
        assert pod["metadata"] == {"name": "llm", "namespace": "ai"}
        assert pod["spec"] == spec
        assert pod_of(yaml.safe_dump(deployment), "x.yaml", "other")["metadata"]["namespace"] == "other"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a: [", "x.yaml: is not YAML"),
            ("kind: Service", "x.yaml: holds no pod and no pod template"),
            ("kind: Pod\n---\nkind: Pod", "x.yaml: holds 2 pods or templates"),
        ],
    )
    def test_mistakes(self, text: str, said: str) -> None:
        with pytest.raises(AskError, match=said):
            pod_of(text, "x.yaml", "")


def test_the_namespace_is_the_contexts(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(json.dumps({
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"namespace": "ai"}}, {"name": "b", "context": {}}],
    }))  # fmt: skip
    assert namespace_of(str(path)) == "ai"
    assert namespace_of(str(path), "b") == "default"
    assert namespace_of(str(tmp_path / "missing")) == "default"
