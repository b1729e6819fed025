"""Scripted agents on a real control plane: foreign memory, sick cards, wrong predictions, rights."""

import asyncio
import datetime
import json
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.pods.reconcile import Device
from headroom.domain.model import GpuNode
from headroom.kube.aio import connect
from headroom.kube.calls import NODES, annotate, merge_patch, pod_path
from headroom.kube.client import Forbidden, Unprocessable
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import Description, uniform_nodes
from simulations.kwok.process import Component, free_port
from tests.fakes.kubelet import Kubelet
from tests.integration.conftest import Given
from tests.paths import DEPLOY

BASE = DEPLOY / "base"
MODEL = "NVIDIA-L4"
VRAM_MIB = 24576
GIB = 2**30
AVOIDED_SECONDS = 5.0
"""The budget, from a card's falling sick to the extender's avoiding it; a quiet machine keeps it."""


class Node:
    """A kwok node with a scripted agent; `show` changes what the agent reads, at once."""

    def __init__(self, cluster: Cluster, folder: Path, name: str, cards: int) -> None:
        self.cluster, self.name, self.cards = cluster, name, cards
        self.script, self.socket, self.port = folder / f"{name}.yaml", folder / f"{name}.sock", free_port()
        self.show()

    def card(self, index: int) -> str:
        return f"GPU-{self.name}-{index}"

    def show(self, *, used_mib: dict[int, int] | None = None, lost: tuple[int, ...] = ()) -> None:
        cards = [
            {
                "id": self.card(index), "index": index, "model": MODEL, "memory_total_bytes": f"{VRAM_MIB}Mi",
                "memory_reserved_bytes": 0, "memory_used_bytes": f"{(used_mib or {}).get(index, 0)}Mi",
                "utilization_ratio": 0.0, "power_watts": 20, "processes": [],
            }
            for index in range(self.cards) if index not in lost
        ]  # fmt: skip
        broken = [{"index": index, "id": self.card(index), "reason": "lost"} for index in lost]
        part = self.script.with_suffix(".part")
        part.write_text(yaml.safe_dump({"cards": cards, "broken": broken}))
        part.rename(self.script)

    def start_agent(self, *flags: str, kubeconfig: Path | None = None) -> Component:
        return self.cluster.daemon(
            "agent", "--node", self.name, "--script", str(self.script), "--interval-seconds", "1", "--settle-seconds", "1",
            "--host", "127.0.0.1", "--port", str(self.port), *(flags or ("--podresources-socket", str(self.socket))),
            name=f"agent-{self.name}", ready_url=f"http://127.0.0.1:{self.port}/readyz", kubeconfig=kubeconfig,
        )  # fmt: skip

    def published(self) -> dict[str, bool]:
        node = self.cluster.api.get(f"/api/v1/nodes/{self.name}")
        return {
            card["id"]: card["healthy"]
            for card in json.loads(node["metadata"]["annotations"].get("headroom.dev/cards", "[]"))
        }

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return answer.read().decode()


@pytest.fixture
def node_with_agent(cluster: Cluster, gpu_nodes: Callable[..., None], tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Makes nodes whose cards nobody has described but their agents."""
    agents: list[Component] = []

    def make(name: str, *, cards: int = 2, slices: int = 1, resource: str = "", agent: bool = True) -> Node:
        (shape,) = uniform_nodes(1, cards=cards, model=MODEL, vram_mib=VRAM_MIB, slices=slices, resource=resource)
        bare = GpuNode(
            name=name, cards=shape.cards, sharing=shape.sharing, resource=resource, cpu_milli=64_000, memory_mib=65_536
        )
        gpu_nodes([bare], Description.LABELS)
        node = Node(cluster, tmp_path, name, cards)
        if agent:
            agents.append(node.start_agent())
            cluster.wait_for(lambda: len(node.published()) == cards, f"the cards of {name}")
        return node

    yield make
    for one in agents:
        one.stop()


@contextmanager
def kubelet_at(socket: Path) -> Iterator[Kubelet]:
    """A kubelet that answers while the test waits: it lives in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    kubelet = Kubelet(socket)
    asyncio.run_coroutine_threadsafe(kubelet.start(), loop).result(10)
    try:
        yield kubelet
    finally:
        asyncio.run_coroutine_threadsafe(kubelet.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture
def measuring_extender(cluster: Cluster, extender_port: int) -> Iterator[Component]:
    """The extender that also reads measured memory, every second, from the cluster's Prometheus."""
    assert cluster.prometheus is not None
    component = cluster.daemon(
        "scheduler", "--port", str(extender_port), "--prometheus-url", cluster.prometheus.url, "--measured-every-seconds", "1",
        "--measured-max-age-seconds", "10", ready_url=f"http://127.0.0.1:{extender_port}/readyz",
    )  # fmt: skip
    yield component
    component.stop()


def ask(
    cluster: Cluster, namespace: str, name: str, mib: int, *, scheduler: str = "headroom", devices: int = 0
) -> None:
    limits = {"headroom.dev/vram": f"{mib}Mi"} if mib else {}
    if devices:
        limits["nvidia.com/gpu"] = str(devices)
    container = {"name": "engine", "image": "server", "resources": {"limits": limits}}
    spec = {"schedulerName": scheduler, "terminationGracePeriodSeconds": 0, "containers": [container]}
    body = {"metadata": {"name": name, "labels": {"pod": name}}, "spec": spec}
    cluster.api.request("POST", f"/api/v1/namespaces/{namespace}/pods", body)


def snapshot(port: int) -> dict[str, dict[str, Any]]:
    """Cards by id, as the extender sees them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/debug/snapshot", timeout=5) as answer:
        content = json.loads(answer.read())
    found: dict[str, dict[str, Any]] = {}

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "usable_mib" in value and "id" in value:
                found[value["id"]] = value
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(content)
    return found


def annotation(cluster: Cluster, namespace: str, name: str, key: str = "assigned-cards") -> str:
    meta = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")["metadata"]
    return meta.get("annotations", {}).get(f"headroom.dev/{key}", "")


@pytest.mark.usefixtures("measuring_extender")
def test_foreign_memory_keeps_pods_off_its_card_until_it_goes(
    cluster: Cluster,
    namespace: str,
    node_with_agent: Callable[..., Node],
    given: Callable[..., list[Given]],
    extender_port: int,
) -> None:
    node = node_with_agent("agent-foreign")
    assert cluster.prometheus is not None
    cluster.prometheus.scrape("agent", f"127.0.0.1:{node.port}")
    node.show(used_mib={0: 20_000})
    cluster.wait_for(
        lambda: snapshot(extender_port)[node.card(0)]["free_mib"] == VRAM_MIB - 20_000, "the foreign memory to be seen"
    )
    ask(cluster, namespace, "first", 10_240)
    assert given(1, pod="first")[0].cards == (node.card(1),)
    ask(cluster, namespace, "second", 16_384)
    cluster.wait_for(lambda: "no card with 16384 MiB free" in cluster.refusal(namespace, "second"), "the refusal")
    node.show()
    assert given(1, pod="second")[0].cards == (node.card(0),)
    # An agent that falls silent: what it measured last does not count for long. No process of the first pod is there: the
    # memory in use is nobody's, and comes on top of what the pod was promised.
    node.show(used_mib={1: 5_000})
    left = VRAM_MIB - 10_240 - 5_000
    cluster.wait_for(lambda: snapshot(extender_port)[node.card(1)]["free_mib"] == left, "memory in use")
    cluster.component(f"agent-{node.name}").stop()
    cluster.wait_for(lambda: snapshot(extender_port)[node.card(1)]["free_mib"] == VRAM_MIB - 10_240, "what is declared")
    cluster.prometheus.scrape("agent")


@pytest.mark.usefixtures("extender")
def test_a_sick_card_is_avoided_and_used_again_when_well(
    cluster: Cluster,
    namespace: str,
    node_with_agent: Callable[..., Node],
    given: Callable[..., list[Given]],
    extender_port: int,
) -> None:
    node = node_with_agent("agent-sick")
    cluster.wait_for(lambda: snapshot(extender_port)[node.card(0)]["usable_mib"] == VRAM_MIB, "both cards in use")
    node.show(lost=(0,))
    fell_sick = time.monotonic()
    cluster.wait_for(lambda: snapshot(extender_port)[node.card(0)]["usable_mib"] == 0, "the card to be avoided")
    took_seconds = time.monotonic() - fell_sick
    print(f"the card was avoided {took_seconds:.1f} s after it fell sick")
    assert took_seconds < 3 * AVOIDED_SECONDS, "beyond all slack that a slow machine is given"
    assert node.published() == {node.card(0): False, node.card(1): True}
    for name in ("one", "two"):
        ask(cluster, namespace, name, 12_000)
        assert given(1, pod=name)[0].cards == (node.card(1),)
    ask(cluster, namespace, "three", 12_000)
    cluster.wait_for(lambda: "no card with 12000 MiB free" in cluster.refusal(namespace, "three"), "the refusal")
    node.show()
    assert given(1, pod="three")[0].cards == (node.card(0),)


@pytest.mark.usefixtures("extender")
def test_a_wrong_prediction_is_corrected_and_a_stranger_is_reported(
    cluster: Cluster,
    namespace: str,
    node_with_agent: Callable[..., Node],
    given: Callable[..., list[Given]],
    extender_port: int,
) -> None:
    node = node_with_agent("agent-truth", slices=4, resource="nvidia.com/gpu")
    ask(cluster, namespace, "predicted", 6_000, devices=1)
    (before,) = given(1, pod="predicted")
    assert before.cards == (node.card(0),)
    ask(cluster, namespace, "stranger", 0, devices=1, scheduler="default-scheduler")
    cluster.wait_for(
        lambda: len([pod for pod in cluster.pods(namespace) if pod["status"].get("startTime")]) == 2, "both to start"
    )
    with kubelet_at(node.socket) as kubelet:
        kubelet.devices = [
            Device(namespace, "predicted", "engine", "nvidia.com/gpu", f"{node.card(1)}::0"),
            Device(namespace, "stranger", "engine", "nvidia.com/gpu", f"{node.card(1)}::1"),
        ]
        cluster.wait_for(lambda: annotation(cluster, namespace, "predicted") == node.card(1), "the correction")
        cluster.wait_for(lambda: annotation(cluster, namespace, "stranger") == node.card(1), "the report")
    assert annotation(cluster, namespace, "predicted", "assigned-vram-mib") == "6000"
    assert annotation(cluster, namespace, "stranger", "assigned-vram-mib") == str(VRAM_MIB // 4)

    def ledger() -> dict[str, int]:
        return {
            card: entry["held_mib"]
            for card, entry in snapshot(extender_port).items()
            if card in (node.card(0), node.card(1))
        }

    cluster.wait_for(lambda: ledger() == {node.card(0): 0, node.card(1): 6_000 + VRAM_MIB // 4}, "the ledger to follow")
    events = {
        event["reason"]: event["note"]
        for event in cluster.api.items(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")
    }
    # Two equal cards: the device plugin was free to pick either.
    assert f"kubelet gave this pod {node.card(1)}, foretold was {node.card(0)}" in events["CardsSettled"]
    assert "CardsReported" in events
    text = node.metrics()
    assert 'headroom_agent_assignments_total{finding="tie"} 1.0' in text
    assert 'headroom_agent_assignments_total{finding="reported"} 1.0' in text


@pytest.mark.usefixtures("extender")
def test_usage_of_what_prometheus_scraped_from_a_running_agent_adds_up(
    cluster: Cluster, namespace: str, node_with_agent: Callable[..., Node], given: Callable[..., list[Given]]
) -> None:
    began = datetime.datetime.now(datetime.UTC).isoformat()
    node = node_with_agent("agent-usage")
    assert cluster.prometheus is not None
    ask(cluster, namespace, "server", VRAM_MIB // 2)
    given(1, pod="server")
    cluster.wait_for(lambda: f'namespace="{namespace}"' in node.metrics(), "the agent to know of the pod")
    cluster.prometheus.scrape("agent", f"127.0.0.1:{node.port}")
    cluster.wait_for(lambda: _energy(cluster) > 400, "400 J in Prometheus")
    command = [
        sys.executable,
        "-m",
        "headroom",
        "usage",
        "--prometheus",
        cluster.prometheus.url,
        "--from",
        began,
        "-o",
        "json",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    cluster.prometheus.scrape("agent")
    assert result.returncode == 0, result.stderr
    lines = {line["project"]: line for line in json.loads(result.stdout)["lines"]}
    total = lines.pop("(total)")
    assert set(lines) == {namespace, "(idle)", "(unattributed)"}
    assert total["kwh"] * 3.6e6 >= 250
    assert sum(line["kwh"] for line in lines.values()) == pytest.approx(total["kwh"], rel=0.001)
    # Nothing ran: of two idle cards, the pod kept half of one. Each series begins and ends at a scrape of its own.
    assert lines[namespace]["kwh"] == pytest.approx(total["kwh"] / 4, rel=0.1)


def _energy(cluster: Cluster) -> float:
    assert cluster.prometheus is not None
    query = urllib.parse.urlencode(
        {"query": 'sum(increase(headroom_card_energy_joules_total{node="agent-usage"}[10m]))'}
    )
    with urllib.request.urlopen(f"{cluster.prometheus.url}/api/v1/query?{query}", timeout=5) as answer:
        result = json.loads(answer.read())["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


def test_nothing_is_written_while_nothing_changes(cluster: Cluster, node_with_agent: Callable[..., Node]) -> None:
    node = node_with_agent("agent-quiet")
    before = _writes(cluster, node.name)
    readings = _readings(node)
    cluster.wait_for(lambda: _readings(node) >= readings + 5, "five more readings")
    assert _writes(cluster, node.name) == before


def _readings(node: Node) -> float:
    line = next(
        line for line in node.metrics().splitlines() if line.startswith('headroom_agent_readings_total{result="ok"}')
    )
    return float(line.split()[-1])


def _writes(cluster: Cluster, name: str) -> int:
    return sum(
        event["verb"] == "patch" and event["objectRef"].get("name") == name and event["userAgent"] == "headroom"
        for event in cluster.audit_events()
    )


@pytest.fixture
def installed(cluster: Cluster) -> Iterator[None]:
    """The agent's account, rights and policy of deploy/base."""
    cluster.apply(BASE / "namespace.yaml")
    for name in ("agent.yaml", "agent-admission.yaml"):
        cluster.apply(BASE / name)
    yield
    for name in ("agent.yaml", "agent-admission.yaml"):
        cluster.kubectl("delete", "-f", str(BASE / name), "--ignore-not-found", "--wait=false")


def _agent_token(cluster: Cluster, node: str, tmp_path: Path) -> Path:
    """A kubeconfig with the token that kubelet would mount into the agent's pod on a node."""
    pods = "/api/v1/namespaces/headroom-system/pods"
    name = f"agent-on-{node}"
    container = {"name": "agent", "image": "headroom"}
    spec = {
        "nodeName": node,
        "serviceAccountName": "headroom-agent",
        "containers": [container],
        "terminationGracePeriodSeconds": 0,
    }
    cluster.api.request("POST", pods, {"metadata": {"name": name}, "spec": spec})
    uid = cluster.api.get(f"{pods}/{name}")["metadata"]["uid"]
    reference = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}
    path = "/api/v1/namespaces/headroom-system/serviceaccounts/headroom-agent/token"
    answer = cluster.api.request("POST", path, {"spec": {"expirationSeconds": 3600, "boundObjectRef": reference}})
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": answer["status"]["token"]}
    kubeconfig = tmp_path / f"{name}.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    return kubeconfig


@pytest.mark.usefixtures("installed")
def test_the_rights_of_deploy_are_enough_for_an_agents_own_node_and_for_no_other(
    cluster: Cluster, namespace: str, node_with_agent: Callable[..., Node], tmp_path: Path
) -> None:
    mine = node_with_agent("agent-mine", slices=2, resource="nvidia.com/gpu", agent=False)
    other = node_with_agent("agent-other", agent=False)
    kubeconfig = _agent_token(cluster, mine.name, tmp_path)
    cluster.wait_for(lambda: not _may(kubeconfig, other.name, "headroom.dev/cards"), "the policy to hold")
    assert _may(kubeconfig, mine.name, "headroom.dev/cards")
    assert not _may(kubeconfig, mine.name, "example.com/cards")
    ask(cluster, namespace, "stranger", 0, devices=1, scheduler="default-scheduler")
    cluster.wait_for(lambda: any(pod["status"].get("startTime") for pod in cluster.pods(namespace)), "the pod to start")
    left_behind = {"status": {"capacity": {"headroom.dev/vram": "160Gi"}}}  # by an earlier version's --publish-capacity
    merge = "application/merge-patch+json"
    cluster.api.request("PATCH", f"/api/v1/nodes/{mine.name}/status", left_behind, content_type=merge)
    probed = len(cluster.audit_events())
    with kubelet_at(mine.socket) as kubelet:
        kubelet.devices = [Device(namespace, "stranger", "engine", "nvidia.com/gpu", f"{mine.card(1)}::1")]
        agent = mine.start_agent("--podresources-socket", str(mine.socket), kubeconfig=kubeconfig)
        cluster.wait_for(lambda: len(mine.published()) == 2, "its cards")
        cluster.wait_for(lambda: annotation(cluster, namespace, "stranger") == mine.card(1), "the report")
        cluster.wait_for(
            lambda: "headroom.dev/vram" not in cluster.api.get(f"/api/v1/nodes/{mine.name}")["status"]["capacity"],
            "the capacity to be taken away",
        )
        agent.stop()
    user = "system:serviceaccount:headroom-system:headroom-agent"
    calls = [event for event in cluster.audit_events()[probed:] if event["user"]["username"] == user]
    assert {event["objectRef"]["resource"] for event in calls} == {"nodes", "pods", "events", "resourceslices"}
    assert [event["requestURI"] for event in calls if event["responseStatus"]["code"] >= 400] == []


def test_the_api_server_refuses_a_correction_of_a_successor(cluster: Cluster, namespace: str) -> None:
    ask(cluster, namespace, "server", 1024)

    async def correct() -> None:
        kube = await connect(str(cluster.kubeconfig))
        body = {
            "metadata": {
                "uid": "00000000-0000-0000-0000-000000000000",
                "annotations": {"headroom.dev/assigned-cards": "x"},
            }
        }
        try:
            await merge_patch(kube, pod_path(namespace, "server"), body)
        finally:
            await kube.close()

    with pytest.raises(Unprocessable, match="field is immutable"):
        asyncio.run(correct())
    assert annotation(cluster, namespace, "server") == ""


def _may(kubeconfig: Path, node: str, key: str) -> bool:
    """Whether the holder of these credentials can write an annotation on a node."""

    async def write() -> bool:
        kube = await connect(str(kubeconfig))
        try:
            await annotate(kube, f"{NODES}/{node}", {key: "[]"})
        except (Forbidden, Unprocessable):
            return False
        finally:
            await kube.close()
        return True

    return asyncio.run(write())
