"""What the demo records on a real control plane, fed with pods as a watch delivers them."""

import pytest

from headroom import names
from headroom.wire import Condition, Container, Meta, Pod, PodSpec, PodStatus
from simulations.demo.on_kwok.recorder import SERVICES, SHARED, WHOLE, Recorder, SideRun, fleet, side_nodes
from simulations.demo.on_kwok.services import HpaLaw


def pod(side: str, name: str, *, node: str = "", card: str = "", ready: bool = False, app: str = "chat") -> Pod:
    annotations = {}
    if card:
        annotations = {names.ANNOTATION_ASSIGNED_CARDS: card, names.ANNOTATION_ASSIGNED_VRAM_MIB: "11264"}
        annotations[names.ANNOTATION_ASSIGNED_MODE] = "pinned"
    return Pod(
        metadata=Meta(name=name, namespace=side, labels={"app": app}, annotations=annotations),
        spec=PodSpec(node_name=node, containers=(Container(name="engine"),)),
        status=PodStatus(conditions=(Condition(type="Ready", status="True"),) if ready else ()),
    )


def test_a_pod_holds_the_card_its_annotation_names_until_it_is_deleted() -> None:
    recorder = Recorder()
    recorder.on_pod("ADDED", "", pod(SHARED, "chat-1"))
    assert recorder.counts(SHARED, 0) == (1, 0)
    bound = pod(SHARED, "chat-1", node="shared-a10-02", card="GPU-a10-02-1")
    recorder.on_pod("MODIFIED", "", bound)
    (share,) = recorder.shares[SHARED]
    assert (share.card, share.mib, share.ready) == (("a10-02", 1), SERVICES[0].vram_mib, None)
    recorder.on_pod("MODIFIED", "", pod(SHARED, "chat-1", node="shared-a10-02", card="GPU-a10-02-1", ready=True))
    assert recorder.counts(SHARED, 0) == (1, 1)
    assert share.ready is not None
    recorder.on_pod("DELETED", "", bound)
    assert recorder.counts(SHARED, 0) == (0, 0)
    assert share.end is not None


def test_whole_cards_are_dealt_from_the_first_free_one() -> None:
    recorder = Recorder()
    for number in range(2):
        recorder.on_pod("ADDED", "", pod(WHOLE, f"chat-{number}", node="whole-l40s-01"))
    assert [share.card for share in recorder.shares[WHOLE]] == [("l40s-01", 0), ("l40s-01", 1)]


def test_pods_of_others_are_none_of_its_business() -> None:
    recorder = Recorder()
    recorder.on_pod("ADDED", "", pod("kube-system", "chat-1", node="shared-a10-01"))
    recorder.on_pod("ADDED", "", pod(SHARED, "x", node="shared-a10-01", app="other"))
    assert recorder.shares == {SHARED: [], WHOLE: []}


def test_both_sides_have_the_same_cards_under_their_own_names() -> None:
    nodes = side_nodes()
    assert len(nodes) == 2 * len(fleet())
    assert len({node.name for node in nodes}) == len(nodes)
    assert {node.labels["side"] for node in nodes} == {SHARED, WHOLE}


def test_latency_is_read_from_the_growth_of_the_buckets_and_survives_a_pod_that_goes() -> None:
    recorder = Recorder()
    run = SideRun(SHARED, "Headroom", recorder)
    recorder.on_pod("ADDED", "", pod(SHARED, "chat-1", node="shared-a10-01", card="GPU-a10-01-0", ready=True))
    first = {"le=1.0": 90.0, "le=2.5": 99.0, "le=+Inf": 100.0, "num_requests_running": 3.0}
    run.sample(1.0, 0.0, {"chat-1": first})
    run.sample(2.0, 0.1, {"chat-1": first})
    recorder.on_pod("DELETED", "", pod(SHARED, "chat-1"))
    run.sample(3.0, 0.2, {})
    assert run.tracks[0].ttft[:2] == [2.5, 2.5]
    record = run.record(fleet(), 3.0)
    assert (record.services[0].met, record.services[0].requests) == (99, 100)
    assert record.held["a10-01", 0] == [True, True, False]
    assert record.busy["a10-01", 0] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("inside", "ready", "wish"),
    [
        ([10.0, 10.0], 2, 2),  # at the target of ten
        ([25.0], 1, 3),
        ([90.0, 90.0], 2, 5),  # never above the bound
        ([0.0], 1, 1),  # never below one
    ],
)
def test_the_hpa_law_follows_requests_per_replica_within_its_bounds(inside: list[float], ready: int, wish: int) -> None:
    assert HpaLaw().wish(1.5, ready, ready, inside) == wish
