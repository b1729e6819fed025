"""Scripted agents on a real control plane: foreign memory, sick cards, wrong predictions."""

import datetime
import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.pods.reconcile import Device
from simulations.kwok.cluster import Cluster
from simulations.kwok.process import Component
from tests.integration.agent.nodes import VRAM_MIB, Node, annotation, ask, kubelet_at
from tests.integration.conftest import Given

AVOIDED_SECONDS = 5.0
"""The budget, from a card's falling sick to the extender's avoiding it; a quiet machine keeps it."""


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
