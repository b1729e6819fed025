"""Kubelet's word against the prediction: what is corrected, what is reported, and what is left alone."""

from typing import Any

import pytest

from agent.cards.reader import CardReading, Missing, ProcessUse, Reading
from agent.energy.attribution import holders_of, pids_of, usage_of
from agent.energy.books import Holder, Use
from agent.pods.cgroup import Owner
from agent.pods.index import NODE_POD, NodePod, PodIndex, PodKey
from agent.pods.reconcile import Device, Finding, Truth, card_of, cards_held, compare, devices_by_card
from headroom.domain.dra.devices import DeviceKey
from headroom.domain.model import Allocation, Card, GpuNode, Sharing
from headroom.names import ANNOTATION_KUBELET_CARDS as KUBELET_CARDS
from headroom.wire import encode
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.ledger import Ledger

GIB = 2**30
CARDS = (
    Card("GPU-a", 0, "L4", 24576, 576, 4),
    Card("GPU-b", 1, "L4", 24576, 576, 4),
    Card("MIG-c", 2, "A100-MIG-3g.40gb", 40960, 0, 1),
)
CID = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def pod(
    name: str = "p", *, cards: str | None = None, vram: str = "8Gi", mode: str = "slice", count: int = 1, **fields: Any
) -> NodePod:
    annotations = {} if cards is None else {
        "headroom.dev/assigned-cards": cards, "headroom.dev/assigned-vram-mib": "8192", "headroom.dev/assigned-mode": mode,
    }  # fmt: skip
    limits = {"nvidia.com/gpu": str(count)} | ({"headroom.dev/vram": vram} if vram else {}) | fields.get("limits", {})
    status = {
        "phase": fields.get("phase", "Running"),
        "startTime": fields.get("start", "2026-01-01T00:00:00Z"),
        "containerStatuses": [{"name": "engine", "containerID": f"containerd://{CID}"}],
    }
    return NODE_POD.decode(
        encode(
            {
                "metadata": {
                    "name": name, "namespace": "chat", "uid": fields.get("uid", f"uid-{name}"), "annotations": annotations,
                    "labels": fields.get("labels", {}),
                },
                "spec": {"nodeName": "n", "containers": [{"name": "engine", "resources": {"limits": limits}}]},
                "status": {key: value for key, value in status.items() if value is not None},
            }
        )
    )  # fmt: skip


def held(*ids: str, name: str = "p", resource: str = "nvidia.com/gpu") -> list[Device]:
    return [Device("chat", name, "engine", resource, device) for device in ids]


def judge(devices: list[Device], *pods: NodePod) -> Truth:
    return compare(devices, PodIndex(pods), CARDS)


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("GPU-a", "GPU-a"),
        ("GPU-b::0", "GPU-b"),
        ("GPU-b::13", "GPU-b"),
        ("MIG-c", "MIG-c"),
        ("nvidia1", "GPU-b"),
        ("nvidia0/vgpu3", "GPU-a"),
        ("nvidia0/gi1", None),
        ("nvidia9", None),
        ("GPU-z", None),
        pytest.param("GPU-a-4", "GPU-a", id="A06 HAMi#1422: HAMi's"),
        pytest.param("GPU-b-_-77", "GPU-b", id="A06 gpushare#159: gpushare's"),
        ("GPU-a-x", None),
        ("GPU-a::", None),
        ("", None),
    ],
)
def test_a_device_names_its_card(device: str, card: str | None) -> None:
    assert card_of(device, CARDS) == card


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        (held("GPU-a::0", "GPU-a::1", "GPU-b::0"), {"GPU-a": 2, "GPU-b": 1}),
        (held("MIG-c", resource="nvidia.com/gpu.shared"), {"MIG-c": 1}),
        (
            [*held("GPU-a"), *held("mlx5_0", resource="rdma/hca"), *held("MIG-z", resource="nvidia.com/mig-1g.5gb")],
            {"GPU-a": 1},
        ),
        pytest.param(held("GPU-a", "nvidia0/gi1"), None, id="one that names no known card"),
        pytest.param([], None, id="no plugin"),
    ],
)
def test_what_the_device_plugin_hands_out_by_card(devices: list[Device], found: dict[str, int] | None) -> None:
    assert devices_by_card(devices, CARDS) == found


def test_cards_that_pods_hold() -> None:
    pods = (
        pod("a", cards="GPU-a,GPU-b"),
        pod("b"),
        pod("c", cards="MIG-c", phase="Failed"),
        pod("d", cards="GPU-z", mode="?"),
    )
    assert cards_held(PodIndex(pods)) == {"GPU-a", "GPU-b"}


PUBLISHED: dict[DeviceKey, tuple[str, ...]] = {
    DeviceKey("gpu.nvidia.com", "n", f"gpu-{at}"): (f"GPU-{card}",) for at, card in enumerate("ab")
}
PUBLISHED[DeviceKey("gpu.nvidia.com", "n", "mig")] = ("MIG-unknown", "GPU-b")


def claimed(*devices: str, name: str = "p") -> list[Device]:
    return [Device("chat", name, "engine", "gpu.nvidia.com", device, "n") for device in devices]


def test_what_claims_hold_is_known_and_written_on_no_pod() -> None:
    """A07, dcgm-exporter#569. The claim says what it holds: an annotation would count it twice."""
    pods = PodIndex([pod("p"), pod("q")])
    listed = [*claimed("gpu-0", "mig"), *claimed("gpu-0", name="q"), *held("GPU-b::1")]
    truth = compare(listed, pods, CARDS, published=PUBLISHED)
    assert truth.holders == {
        ("chat", "p"): (("GPU-a", "engine"), ("GPU-b", "engine"), ("GPU-b", "engine")),
        ("chat", "q"): (("GPU-a", "engine"),),
    }
    (correction,) = truth.corrections
    assert (correction.name, correction.actual) == ("p", ("GPU-b",))
    assert cards_held(pods, truth) == {"GPU-a", "GPU-b"}


def test_a_claimed_device_that_nobody_publishes_is_reported_if_it_must_be_a_card() -> None:
    other = Device("chat", "p", "engine", "nic.example.com", "gpu-0", "n")
    truth = compare([*claimed("gpu-9"), other], PodIndex([pod()]), CARDS, published=PUBLISHED)
    assert (truth.unknown_devices, truth.holders) == (["n/gpu-9"], {})


def test_a_right_prediction_is_confirmed_once() -> None:
    """The scheduler keeps room on other cards until kubelet's word is on the pod."""
    truth = judge(held("GPU-a::2"), pod(cards="GPU-a"))
    (correction,) = truth.corrections
    assert (truth.right, correction.finding, correction.annotations) == (1, Finding.RIGHT, {KUBELET_CARDS: "GPU-a"})
    settled = pod(cards="GPU-a")
    settled.metadata.annotations[KUBELET_CARDS] = "GPU-a"
    truth = judge(held("GPU-a::2"), settled)
    assert (truth.right, truth.corrections) == (1, [])


@pytest.mark.parametrize(
    ("other", "allocation", "finding"),
    [
        pytest.param(None, "distributed", Finding.TIE, id="two empty cards: the plugin takes either"),
        pytest.param("GPU-a", "distributed", Finding.TIE, id="the emptier card"),
        pytest.param("GPU-b", "distributed", Finding.CORRECTED, id="the fuller card, by a plugin that distributes"),
        pytest.param("GPU-a", "packed", Finding.CORRECTED, id="the emptier card, by a plugin that packs"),
        pytest.param("GPU-b", "packed", Finding.TIE, id="the fuller card"),
        pytest.param("GPU-b", "unknown", Finding.TIE, id="a plugin of which nothing is known"),
    ],
)
def test_another_card_is_a_wrong_prediction_only_if_the_plugin_was_not_free_to_pick_it(
    other: str | None, allocation: str, finding: Finding
) -> None:
    """Between equal cards every second prediction names the other one; that says nothing about the rule."""
    pods, devices = [pod(cards="GPU-a")], held("GPU-b::3")
    if other is not None:
        there = pod(name="there", cards=other)
        there.metadata.annotations[KUBELET_CARDS] = other
        pods.append(there)
        devices += [Device("chat", "there", "engine", "nvidia.com/gpu", f"{other}::0")]
    truth = compare(devices, PodIndex(pods), CARDS[:2], Allocation(allocation))
    assert [correction.finding for correction in truth.corrections] == [finding]


def test_the_order_of_devices_is_no_difference() -> None:
    assert judge(held("GPU-b::0", "GPU-a::1"), pod(cards="GPU-a,GPU-b", count=2)).right == 1


def test_a_wrong_prediction_is_corrected_on_the_pod_that_it_was_made_for() -> None:
    (correction,) = judge(held("GPU-b::0"), pod(cards="GPU-a")).corrections
    assert (correction.finding, correction.predicted, correction.actual) == (Finding.TIE, ("GPU-a",), ("GPU-b",))
    assert (correction.namespace, correction.name, correction.uid) == ("chat", "p", "uid-p")
    assert correction.annotations == {
        "headroom.dev/assigned-cards": "GPU-b",
        "headroom.dev/assigned-vram-mib": "8192",
        "headroom.dev/assigned-vram-share": "0.333",
        "headroom.dev/assigned-mode": "slice",
        "headroom.dev/kubelet-cards": "GPU-b",
    }


def test_a_pod_that_has_other_cards_after_a_reboot_is_told_of_anew() -> None:
    """Its object outlives the reboot, with what kubelet said before; kubelet hands the devices out anew."""
    rebooted = pod(cards="GPU-a")
    rebooted.metadata.annotations[KUBELET_CARDS] = "GPU-a"
    (correction,) = judge(held("GPU-b::0"), rebooted).corrections
    assert correction.annotations["headroom.dev/assigned-cards"] == correction.annotations[KUBELET_CARDS] == "GPU-b"


def test_two_slices_of_one_card_are_two_shares_of_it() -> None:
    (correction,) = judge(held("GPU-b::0", "GPU-b::1"), pod(cards="GPU-a,GPU-b", count=2)).corrections
    assert correction.annotations["headroom.dev/assigned-cards"] == "GPU-b,GPU-b"


@pytest.mark.parametrize(
    ("vram", "mib"), [("10Gi", "10240"), ("", "6000")], ids=["the size that it asked for", "else the default slice"]
)
def test_a_pod_that_headroom_never_saw_is_reported_with(vram: str, mib: str) -> None:
    (correction,) = judge(held("GPU-a::3"), pod(vram=vram)).corrections
    assert correction.finding is Finding.REPORTED
    assert correction.annotations["headroom.dev/assigned-vram-mib"] == mib


def test_annotations_that_cannot_be_read_count_as_none() -> None:
    (correction,) = judge(held("GPU-a::3"), pod(cards="GPU-a", mode="guess")).corrections
    assert correction.finding is Finding.REPORTED


def test_a_pod_of_an_unknown_device_resource_is_reported_with_the_default_slice() -> None:
    strange = pod(vram="", count=0)
    (correction,) = judge(held("MIG-c", resource="nvidia.com/mig-3g.40gb"), strange).corrections
    assert correction.annotations["headroom.dev/assigned-vram-mib"] == "40960"


def test_cards_that_headroom_picked_itself_are_never_overruled() -> None:
    picked = pod(cards="GPU-a", mode="pinned", count=0)
    truth = judge(held("GPU-b::0"), picked)
    assert (truth.corrections, truth.right) == ([], 0)


@pytest.mark.parametrize("written", ["GPU-b", "GPU-a", "GPU-elsewhere"])
def test_a_pod_of_the_device_plugin_that_calls_itself_pinned_is_put_right(written: str) -> None:
    """Cases s37 and L13: its author hid it from this comparison by an annotation."""
    (correction,) = judge(held("GPU-b::0"), pod(cards=written, mode="pinned")).corrections
    assert (correction.finding, correction.actual) == (Finding.CORRECTED, ("GPU-b",))
    assert correction.annotations["headroom.dev/assigned-mode"] == "slice"
    assert correction.annotations["headroom.dev/assigned-cards"] == "GPU-b"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_finished_pod_that_kubelet_still_lists_holds_nothing(phase: str) -> None:
    truth = judge(held("GPU-b::0"), pod(cards="GPU-a", phase=phase))
    assert (truth.corrections, truth.holders) == ([], {})


def test_a_pod_that_has_not_started_may_be_the_successor_of_the_one_that_kubelet_lists() -> None:
    truth = judge(held("GPU-b::0"), pod(cards="GPU-a", phase="Pending", start=None))
    assert (truth.corrections, truth.waiting) == ([], [("chat", "p")])


def test_a_pod_that_the_api_server_does_not_have_is_counted_not_guessed() -> None:
    truth = judge(held("GPU-b::0", name="ghost"), pod(cards="GPU-a"))
    assert (truth.corrections, truth.unknown_pods) == ([], [("chat", "ghost")])


def test_devices_that_name_no_card_are_counted_and_their_pod_left_alone() -> None:
    truth = judge(held("GPU-z::0", "GPU-b::0"), pod(cards="GPU-a", count=2))
    assert (truth.corrections, truth.unknown_devices) == ([], ["GPU-z::0"])


def test_other_vendors_devices_are_none_of_ours() -> None:
    truth = judge(held("rdma0", resource="rdma/hca"), pod())
    assert (truth.unknown_devices, truth.holders) == ([], {})


def test_a_pod_whose_request_cannot_be_read_is_named_and_its_devices_are_reported() -> None:
    truth = judge(held("GPU-a::0"), pod(vram="lots"))
    (correction,) = truth.corrections
    assert (correction.actual, correction.annotations["headroom.dev/assigned-vram-mib"]) == (("GPU-a",), "6000")
    assert "headroom.dev/vram: lots" in truth.not_understood[0]


@pytest.mark.parametrize(
    ("pod_", "resource", "held_mib"),
    [
        (pod(vram="", count=0, limits={"nvidia.com/gpu-llm": "1"}), "nvidia.com/gpu-llm", 6000),
        (pod(vram="lots"), "nvidia.com/gpu", 6000),
        (pod(vram="10Gi"), "nvidia.com/gpu", 10240),
    ],
    ids=["a renamed resource", "a request that cannot be read", "a pod of another scheduler"],
)
def test_what_the_agent_writes_reaches_the_ledger(pod_: NodePod, resource: str, held_mib: int) -> None:
    (correction,) = judge(held("GPU-b::1", resource=resource), pod_).corrections
    pod_.metadata.annotations = dict(correction.annotations)  # as the API server then shows it
    ledger = Ledger(Fleet())
    ledger.apply_node(
        GpuNode(
            "n",
            CARDS,
            Sharing.TIME_SLICING,
            Allocation.DISTRIBUTED,
            "nvidia.com/gpu",
            cpu_milli=8000,
            memory_mib=32000,
        )
    )
    ledger.apply(pod_)
    row = ledger.fleet.row_of["n"]
    assert ledger.fleet.held_mib[row, :3].tolist() == [0, held_mib, 0]
    assert ledger.fleet.plugin[row, :3].tolist() == [0, 1, 0]
    assert ledger.check() == []


READING = Reading(
    0.0,
    (
        CardReading("GPU-a", 0, "L4", memory_total_bytes=24 * GIB, processes=(
            ProcessUse(10, GIB, 0.5), ProcessUse(11, 2 * GIB, 0.25), ProcessUse(12, 4 * GIB, 0.1), ProcessUse(13, GIB, 0.1),
        )),
        CardReading("GPU-b", 1, "L4", memory_total_bytes=24 * GIB),
        CardReading("GPU-m", 2, "A100", memory_total_bytes=80 * GIB, mig=True, processes=()),
        CardReading("MIG-c", 2, "A100", parent="GPU-m", memory_total_bytes=40 * GIB, processes=(ProcessUse(14, GIB),)),
    ),
)  # fmt: skip
SEARCH = PodKey("chat", "p", "search")


def test_processes_are_sorted_by_pod_and_container() -> None:
    pods = PodIndex([pod(uid="u1", labels={"headroom.dev/project": "search"})])
    owners = {10: Owner("u1", CID), 11: Owner("u1", ""), 12: None, 14: Owner("u1", CID)}
    assert pids_of(READING) == [10, 11, 12, 13, 14]
    usage = usage_of(READING, owners, pods)
    assert usage.uses["GPU-a"] == [Use(SEARCH, 0.5), Use(SEARCH, 0.25), Use(None, 0.1)]  # 13 vanished
    assert usage.uses["GPU-b"] is Missing.NOT_SUPPORTED
    assert usage.uses["GPU-m"] == [Use(SEARCH)]
    assert [(entry.card, entry.container, entry.used_bytes) for entry in usage.memory] == [
        ("GPU-a", "", 2 * GIB),
        ("GPU-a", "engine", GIB),
        ("MIG-c", "engine", GIB),
    ]
    assert usage.outside_bytes == {"GPU-a": 4 * GIB}


def test_a_process_of_a_pod_that_is_gone_from_the_api_is_nobodys() -> None:
    usage = usage_of(READING, {10: Owner("gone", CID)}, PodIndex())
    assert usage.outside_bytes == {"GPU-a": GIB}


def test_static_pods_are_found_by_kubelets_own_id() -> None:
    mirror = pod(uid="u1")
    mirror.metadata.annotations["kubernetes.io/config.hash"] = "d41d8cd98f00b204e9800998ecf8427e"
    usage = usage_of(READING, {10: Owner("d41d8cd98f00b204e9800998ecf8427e", "")}, PodIndex([mirror]))
    assert usage.uses["GPU-a"] == [Use(PodKey("chat", "p", "chat"), 0.5)]


def test_shares_are_of_what_kubelet_gave_and_otherwise_of_what_was_promised() -> None:
    pods = PodIndex([pod("one", cards="GPU-a"), pod("two", vram="12000Mi"), pod("done", cards="GPU-a", phase="Failed")])
    holders = holders_of(pods, {("chat", "two"): (("GPU-b", "engine"), ("MIG-c", "engine"))}, CARDS, READING)
    one, two = PodKey("chat", "one", "chat"), PodKey("chat", "two", "chat")
    assert holders == {
        "GPU-a": [Holder(one, 8192 / 24000)],
        "GPU-b": [Holder(two, 0.5)],
        "GPU-m": [Holder(two, 12000 / 40960 / 2)],  # half of the card is the instance
    }


@pytest.mark.parametrize(
    ("one", "share"),
    [
        pytest.param(pod(cards="GPU-a", mode="guess"), 0.0, id="annotations that cannot be read count as none"),
        pytest.param(pod(vram="lots"), None, id="a request that cannot be read reserves nothing that is known"),
        pytest.param(pod(vram="", count=0), 0.25, id="devices of an unknown resource are default slices"),
        pytest.param(pod(vram="24Gi"), 1.0, id="never more than a card"),
    ],
)
def test_a_share_that_is_not_annotated_is_worked_out(one: NodePod, share: float | None) -> None:
    devices = {} if share == 0.0 else {("chat", "p"): (("GPU-a", "engine"),)}
    holders = holders_of(PodIndex([one]), devices, CARDS, READING)
    assert holders == ({"GPU-a": [Holder(PodKey("chat", "p", "chat"), share)]} if share else {})


def test_a_card_without_usable_memory_has_no_shares() -> None:
    full = (Card("GPU-a", 0, "L4", 576, 576, 4),)
    assert holders_of(PodIndex([pod(cards="GPU-a")]), {}, full, READING) == {}
