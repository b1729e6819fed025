"""What series say of the cards' memory, and of which cards."""

from typing import Any

import msgspec
import pytest

from headroom.domain.model import Card, GpuNode
from headroom.prometheus.series import DeviceJobs
from scheduler.cluster.measured import METRICS, MeasuredVram, Readings, line_of, query_for
from scheduler.ledger.measured import CardUse
from tests.fakes.prometheus import series

NOW = 1_700_000_000.0
GIB = 2.0**30
AGENT = {"__name__": "headroom_card_memory_used_bytes"}
OUTSIDE = {"__name__": "headroom_card_unattributed_memory_bytes"}
POD = {"__name__": "headroom_pod_memory_used_bytes", "namespace": "chat", "container": "engine"}
DCGM = {"__name__": "DCGM_FI_DEV_FB_USED"}


def node(name: str, *ids: str) -> GpuNode:
    return GpuNode(name, tuple(Card(card, at, "L4", 23000) for at, card in enumerate(ids)))


NODES = {
    one.name: one
    for one in (
        node("n1", "GPU-a", "GPU-b"), node("n2.example.org", "GPU-c"), node("labels-only", "0", "1"),
        node("twin-1", "card"), node("twin-2", "card"),
    )
}  # fmt: skip


def spelt(value: float) -> str:
    """As Prometheus writes it."""
    return {"nan": "NaN", "inf": "+Inf"}.get(str(value), repr(value))


def read(*found: Any, jobs: DeviceJobs | None = None) -> MeasuredVram:
    entries = [
        msgspec.json.encode({"metric": labels, "values": [(at, spelt(value)) for at, value in points]})
        for labels, points in found
    ]
    readings = Readings(NODES, max_age_seconds=60, now=NOW, jobs=jobs)
    for metric in METRICS:
        readings.add(metric, [line_of(msgspec.Raw(entry)) for entry in entries])
    return readings.result()


def totals(reading: MeasuredVram) -> dict[tuple[str, str], int | None]:
    return {(name, card): use.total_mib for name, cards in reading.uses.items() for card, use in cards.items()}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([series(AGENT, (NOW, 3 * GIB), node="n1", card="GPU-a")], {("n1", "GPU-a"): 3072}, id="agent"),
        pytest.param(
            [series(AGENT, (NOW, 1.0), node="n1", card="GPU-a")], {("n1", "GPU-a"): 1}, id="rounded up to a MiB"
        ),
        pytest.param(
            [series(DCGM, (NOW, 500.0), Hostname="n1", UUID="GPU-a", gpu="0")],
            {("n1", "GPU-a"): 500}, id="dcgm-exporter by UUID",
        ),
        pytest.param(
            [series(DCGM, (NOW, 500.0), Hostname="labels-only", UUID="GPU-unknown", gpu="1")],
            {("labels-only", "1"): 500}, id="dcgm-exporter by index, where nobody knows UUIDs",
        ),
        pytest.param(
            [series(DCGM, (NOW, 500.0), Hostname="dcgm-exporter-7x2kq", UUID="GPU-b", gpu="1")],
            {("n1", "GPU-b"): 500}, id="A01 dcgm-exporter#78: Hostname is the exporter's pod",
        ),
        pytest.param(
            [series(DCGM, (NOW, 500.0), UUID="GPU-c", gpu="0")], {("n2.example.org", "GPU-c"): 500}, id="no node at all"
        ),
        pytest.param(
            [series(DCGM, (NOW, 500.0), Hostname="labels-only.example.org", gpu="0")],
            {("labels-only", "0"): 500}, id="a short name and a long one",
        ),
        pytest.param(
            [series(AGENT, (NOW, GIB), exported_node="n1", node="twin-1", card="GPU-a", job="headroom-agent")],
            {("n1", "GPU-a"): 1024}, id="labels not honoured by Prometheus, from a job that is believed",
        ),
        pytest.param(
            [series(AGENT, (NOW, GIB), exported_node="twin-1", node="twin-2", card="card", job="kubernetes-pods")],
            {("twin-2", "card"): 1024}, id="from another job: the node that was scraped",
        ),
        pytest.param(
            [
                series(DCGM, (NOW, 700.0), Hostname="n1", UUID="GPU-a", pod="x"),
                series(DCGM, (NOW, 710.0), Hostname="n1", UUID="GPU-a", pod="y"),
            ],
            {("n1", "GPU-a"): 710}, id="a shared card repeated for each pod is one card",
        ),
        pytest.param(
            [
                series(DCGM, (NOW, 1900.0), Hostname="n1", UUID="GPU-a"),
                series(AGENT, (NOW - 5, GIB), node="n1", card="GPU-a"),
                series(OUTSIDE, (NOW - 5, 0.0), node="n1", card="GPU-a"),
            ],
            {("n1", "GPU-a"): 1024}, id="two exporters: who names processes counts",
        ),
        pytest.param(
            [
                series(AGENT, (NOW - 40, 9 * GIB), node="n1", card="GPU-a", instance="10.0.0.1"),
                series(AGENT, (NOW - 5, GIB), node="n1", card="GPU-a", instance="10.0.0.2"),
            ],
            {("n1", "GPU-a"): 1024}, id="of a restarted agent the later series counts",
        ),
        pytest.param(
            [series(AGENT, (NOW - 90, 9 * GIB), (NOW - 10, GIB), node="n1", card="GPU-a")],
            {("n1", "GPU-a"): 1024}, id="the last sample counts",
        ),
        pytest.param(
            [
                series(AGENT, (NOW, 79 * GIB), node="n1", card="GPU-a", job="kubernetes-pods", namespace="evil"),
                series(AGENT, (NOW - 10, GIB), node="n1", card="GPU-a", job="headroom-agent"),
            ],
            {("n1", "GPU-a"): 1024}, id="a job that is believed before one that is not",
        ),
    ],
)  # fmt: skip
def test_memory_in_use(found: list[Any], expected: dict[tuple[str, str], int]) -> None:
    reading = read(*found)
    assert totals(reading) == expected
    assert (reading.stale, reading.unusable, reading.unmatched, reading.doubted) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("labels", "at", "value", "left_out"),
    [
        pytest.param({**AGENT, "node": "n1", "card": "GPU-a"}, NOW - 61, GIB, "stale", id="too old"),
        pytest.param({**DCGM, "UUID": "GPU-a"}, NOW, 9.2e18, "unusable", id="not supported"),
        pytest.param({**DCGM, "UUID": "GPU-a"}, NOW, 2147483632.0, "unusable", id="not supported, 32 bit"),
        pytest.param({**AGENT, "node": "n1", "card": "GPU-a"}, NOW, -1.0, "unusable", id="negative"),
        pytest.param({**AGENT, "node": "n1"}, NOW, GIB, "unusable", id="no card"),
        pytest.param({**DCGM, "gpu": "1"}, NOW, 5.0, "unusable", id="an index of no node"),
        pytest.param({**DCGM, "UUID": "GPU-a", "GPU_I_ID": "3"}, NOW, 5.0, "unusable", id="MIG instance"),
        pytest.param({**AGENT, "node": "n1", "card": "GPU-x"}, NOW, GIB, "unmatched", id="a card that no node has"),
        pytest.param({**AGENT, "card": "card"}, NOW, GIB, "unmatched", id="an id that two nodes have, and no node"),
        pytest.param({**DCGM, "Hostname": "exporter", "gpu": "0"}, NOW, 5.0, "unmatched", id="index of an unknown node"),
        pytest.param(
            {**POD, "exported_pod": "llama", "node": "n1", "card": "GPU-a", "job": "kubernetes-pods"},
            NOW, GIB, "doubted", id="of another pod, by a job that is not believed",
        ),
    ],
)  # fmt: skip
def test_what_does_not_count_is_counted(labels: dict[str, str], at: float, value: float, left_out: str) -> None:
    reading = read((labels, [(at, value)]))
    assert reading.uses == {}
    kinds = ("stale", "unusable", "unmatched", "doubted")
    assert {kind: getattr(reading, kind) for kind in kinds} == {kind: int(kind == left_out) for kind in kinds}


def test_what_matches_no_card_is_named() -> None:
    reading = read(
        *(series(DCGM, (NOW, 5.0), Hostname="exporter", UUID=f"GPU-{at}", pod=pod) for at in range(5) for pod in "xy")
    )
    assert reading.unmatched == 10
    assert reading.examples == ["GPU-0 of exporter", "GPU-1 of exporter", "GPU-2 of exporter"]


def test_jobs_that_are_not_believed_are_named() -> None:
    reading = read(
        series(POD, (NOW, GIB), exported_pod="llama", pod="agent-1", node="n1", card="GPU-a", job="scraped"),
        series(AGENT, (NOW, 2 * GIB), node="n1", card="GPU-a", job="scraped"),
        jobs=DeviceJobs(("ours",)),
    )
    assert (reading.doubted_jobs, reading.uses["n1"]["GPU-a"]) == ({"scraped"}, CardUse(NOW, 2048))


def test_one_exporters_series_are_read_together_whatever_their_labels_say_of_namespaces() -> None:
    """`honor_labels: true`: the pod's series keep the pod's namespace, the card's get that of the agent, which is believed."""
    target = {"node": "n1", "card": "GPU-a", "job": "kubernetes-pods", "instance": "10.0.0.1:8903"}
    reading = read(
        series(AGENT, (NOW, 7 * GIB), namespace="headroom-system", **target),
        series(OUTSIDE, (NOW, 0.0), namespace="headroom-system", **target),
        series(POD, (NOW, 7 * GIB), pod="llama", **target),
        series(AGENT, (NOW, 79 * GIB), **target | {"namespace": "evil", "instance": "10.0.0.9:8903"}),
    )
    assert reading.uses["n1"]["GPU-a"] == CardUse(NOW, 7168, 0, {"chat/llama": 7168})


def test_the_agents_word_is_by_pod_and_of_one_scrape() -> None:
    place = {"node": "n1", "card": "GPU-a"}
    reading = read(
        series(AGENT, (NOW - 20, 9 * GIB), (NOW - 5, 7 * GIB), **place),
        series(OUTSIDE, (NOW - 5, GIB), **place),
        series(POD, (NOW - 5, 2 * GIB), pod="llama", **place),
        series(POD | {"container": "draft"}, (NOW - 5, 3 * GIB), pod="llama", **place),
        series(POD, (NOW - 20, 4 * GIB), pod="ended", **place),
    )
    assert reading.uses["n1"]["GPU-a"] == CardUse(NOW - 5, 7168, 1024, {"chat/llama": 5120})
    assert reading.cards == 1


def test_a_node_that_was_not_described_when_it_was_read_finds_its_cards_later() -> None:
    reading = read(series(AGENT, (NOW, GIB), node="late", card="GPU-z"), series(DCGM, (NOW, 7.0), UUID="GPU-y"))
    found = reading.of_node(node("late", "GPU-z", "GPU-y"))
    assert {card: use.total_mib for card, use in found.items()} == {"GPU-z": 1024, "GPU-y": 7}


def test_what_a_part_of_an_answer_lacks_is_taken_from_the_reading_before() -> None:
    """Thanos and Mimir answer with a part while a store is down; memory that they do not speak of is not free."""
    place = {"node": "n1"}
    before = read(*(series(AGENT, (at, GIB), card=card, **place) for card, at in (("GPU-a", NOW - 50), ("GPU-b", NOW))))
    part = read(series(AGENT, (NOW, 2 * GIB), node="labels-only", card="0"))
    part.fill_from(before, oldest=NOW - 20)
    assert totals(part) == {("labels-only", "0"): 2048, ("n1", "GPU-b"): 1024}


def test_each_metric_is_a_query_and_totals_come_first() -> None:
    assert [query_for(metric, 59.5) for metric in METRICS] == [
        "headroom_card_memory_used_bytes[60s]",
        "headroom_card_unattributed_memory_bytes[60s]",
        "headroom_pod_memory_used_bytes[60s]",
        "DCGM_FI_DEV_FB_USED[60s]",
    ]


def test_a_scrape_between_two_queries_loses_no_pod() -> None:
    place = {"node": "n1", "card": "GPU-a"}
    reading = read(
        series(AGENT, (NOW - 15, 7 * GIB), **place),
        series(OUTSIDE, (NOW, 0.0), **place),
        series(POD, (NOW, 8 * GIB), pod="llama", **place),
    )
    assert reading.uses["n1"]["GPU-a"] == CardUse(NOW - 15, 7168, 0, {"chat/llama": 8192})


def test_values_that_are_no_numbers_are_unusable() -> None:
    reading = read(
        series(AGENT, (NOW - 15, GIB), (NOW, float("nan")), node="n1", card="GPU-a"),
        series(AGENT, (NOW, float("inf")), node="n1", card="GPU-b"),
    )
    assert (totals(reading), reading.unusable) == ({("n1", "GPU-a"): 1024}, 1)
