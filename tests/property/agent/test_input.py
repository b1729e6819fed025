"""Whatever comes in from outside is understood or refused in the agent's own words; nothing else escapes."""

from typing import Any
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.cards.inventory import Inventory, cards_of_annotation, slices_of
from agent.cards.reader import CardReading, ReaderError, Reading, ScriptError
from agent.cards.scripted import ScriptedReader, parse_script
from agent.energy.tariff import TariffError, parse_tariff
from agent.pods.cgroup import owner_of
from agent.pods.podresources import MESSAGES, devices_in, encode_devices
from agent.pods.reconcile import Device, card_of
from headroom import wire
from headroom.domain.model import Card

scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=12))
plain = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=12), inner, max_size=3)),
    max_leaves=8,
)
KEYS = ["id", "index", "model", "memory_total_bytes", "power_watts", "processes", "mig", "parent", "energy_millijoules"]
cards = st.lists(st.dictionaries(st.sampled_from(KEYS), plain, max_size=9), max_size=2)
frames = st.dictionaries(
    st.sampled_from(["at", "driver", "cards", "broken", "faults"]), st.one_of(plain, cards), max_size=5
)
hexadecimal = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(st.text())
def test_any_text_is_a_cgroup_or_none(text: str) -> None:
    owner_of(text)


qualities = st.sampled_from(["", "burstable", "besteffort"])
runtimes = st.sampled_from(["cri-containerd", "crio", "docker"])


@given(st.uuids(), hexadecimal, qualities, runtimes, st.text("abc/-.", max_size=30))
def test_a_pod_is_found_below_any_prefix(uid: UUID, container: str, quality: str, runtime: str, prefix: str) -> None:
    level = f"-{quality}" if quality else ""
    slices = f"kubepods{level}-pod{str(uid).replace('-', '_')}.slice/{runtime}-{container}.scope"
    files = f"kubepods/{quality + '/' if quality else ''}pod{uid}/{container}"
    for path in (slices, files):
        owner = owner_of(f"0::/{prefix}/{path}")
        assert owner is not None
        assert (owner.pod_uid, owner.container_id) == (str(uid), container)


@given(st.lists(st.one_of(plain, frames), max_size=3))
def test_any_document_is_a_script_or_a_script_error(documents: list[Any]) -> None:
    try:
        found = parse_script(documents)
    except ScriptError:
        return
    try:
        msgspec.json.encode(ScriptedReader(found).read(0.0))
    except ReaderError:
        return


@given(plain)
def test_any_document_is_a_tariff_or_a_tariff_error(document: Any) -> None:
    try:
        parse_tariff(document)
    except TariffError:
        return


amounts = st.dictionaries(
    st.sampled_from(["nvidia.com/gpu", "nvidia.com/gpu.shared"]), st.one_of(st.text(max_size=8), st.integers())
)


@given(st.text(), amounts, st.integers(0, 16))
def test_any_node_has_at_least_one_slice_per_card(
    text: str, capacity: dict[str, str | int | float], count: int
) -> None:
    meta = wire.Meta(name="n", labels={"nvidia.com/gpu.replicas": text}, annotations={"headroom.dev/cards": text})
    node = wire.Node(metadata=meta, status=wire.NodeStatus(capacity=capacity))
    total = CardReading("GPU-a", 0, "NVIDIA-L4", memory_total_bytes=24 * 2**30, memory_reserved_bytes=0)
    (card,) = Inventory().update(Reading(0.0, (total,)), {}, slices_of(node, count))
    assert card.slices >= 1
    cards_of_annotation(node)


@given(st.text(max_size=40))
def test_any_device_id_names_a_card_or_none(device: str) -> None:
    assert card_of(device, (Card("GPU-a", 0, "L4", 1), Card("GPU-b", 1, "L4", 1))) in ("GPU-a", "GPU-b", None)


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.builds(Device, names, names, names, names, names, names), max_size=5))
def test_devices_survive_the_wire(devices: list[Device]) -> None:
    found = devices_in(MESSAGES["ListPodResourcesResponse"].FromString(encode_devices(devices)))
    assert found == tuple(sorted(devices, key=lambda device: device.pool != ""))
