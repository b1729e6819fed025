"""What pods wish by annotations, and what is told of words that have no effect."""

from typing import Any

import pytest

from headroom import wire
from headroom.domain.dialects.customs import Customs
from headroom.domain.model import CardChoice, CardMode, Order
from headroom.domain.request import RequestError, demand_of, ignored_words, request_of
from tests.unit.headroom.domain.pods import (
    ALIYUN,
    CARDS,
    CORES,
    GPU,
    GPUMEM,
    MILLI,
    VRAM,
    pinned,
    pod,
    slices,
)

# What annotations say


def noted(limits: dict[str, Any], scheduler: str = "headroom", **annotations: str) -> wire.Pod:
    """A pod with annotations; `__` stands for `/`, `_` for `-`."""
    found = pod(dict(limits), scheduler_name=scheduler)
    found.metadata.annotations = {
        name.replace("__", "/").replace("_", "-"): value for name, value in annotations.items()
    }
    return found


@pytest.mark.parametrize(
    ("annotations", "choice", "order"),
    [
        pytest.param({"nvidia.com__use_gputype": "A100, V100"}, CardChoice(models=frozenset({"A100", "V100"})), Order.POLICY, id="R02"),
        ({"nvidia.com__nouse_gputype": "1080"}, CardChoice(not_models=frozenset({"1080"})), Order.POLICY),
        pytest.param({"nvidia.com__use_gpuuuid": "GPU-b"}, CardChoice(ids=frozenset({"GPU-b"})), Order.POLICY, id="R04"),
        ({"nvidia.com__nouse_gpuuuid": "GPU-a,GPU-b"}, CardChoice(not_ids=frozenset({"GPU-a", "GPU-b"})), Order.POLICY),
        ({"nvidia.com__vgpu_mode": "mig"}, CardChoice(modes=frozenset({CardMode.MIG})), Order.POLICY),
        ({"volcano.sh__vgpu_mode": "hami-core,mps"}, CardChoice(modes=frozenset({CardMode.HAMI_CORE, CardMode.MPS})), Order.POLICY),
        ({"hami.io__gpu_scheduler_policy": "mutex"}, CardChoice(idle=True), Order.POLICY),
        ({"hami.io__gpu_scheduler_policy": "spread"}, None, Order.SPREAD_CARDS),
        ({"hami.io__node_scheduler_policy": "spread"}, None, Order.SPREAD_NODES),
        ({"hami.io__node_scheduler_policy": "binpack", "hami.io__gpu_scheduler_policy": "binpack"}, None, Order.POLICY),
        (
            {"hami.io__node_scheduler_policy": "spread", "hami.io__gpu_scheduler_policy": "spread", "nvidia.com__use_gputype": "L4"},
            CardChoice(models=frozenset({"L4"})), Order.SPREAD_NODES | Order.SPREAD_CARDS,
        ),
        pytest.param({"nvidia.com__use_gputype": " ", "nvidia.com__use_gpuuuid": ""}, None, Order.POLICY, id="empty is no wish"),
        ({"nvidia.com__numa_bind": "true", "hami.io__bind_phase": "success"}, None, Order.POLICY),
    ],
)  # fmt: skip
def test_what_annotations_wish(annotations: dict[str, str], choice: CardChoice | None, order: Order) -> None:
    asked = request_of(noted({GPUMEM: "3000"}, **annotations))
    assert asked is not None
    assert (asked.choice, asked.order) == (choice, order)
    bound = noted({GPUMEM: "3000"}, **annotations)
    bound.spec.node_name = "n"
    assert request_of(bound) == pinned(vram_mib=3000), "what a bound pod would have liked is over"
    assert request_of(noted({"cpu": "1"}, **annotations)) is None


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("hami.io/gpu-scheduler-policy", "topology-aware", "knows binpack, spread and mutex"),
        ("hami.io/gpu-scheduler-policy", "numa,binpack", "knows binpack, spread and mutex"),
        ("hami.io/node-scheduler-policy", "random", "knows binpack and spread"),
        ("nvidia.com/vgpu-mode", "vfio", "not one of mig, mps, hami-core"),
    ],
)
def test_wishes_that_cannot_be_granted_are_refused_by_name(name: str, value: str, reason: str) -> None:
    wishing = noted({GPUMEM: "3000"})
    wishing.metadata.annotations[name] = value
    with pytest.raises(RequestError, match=f"annotation {name}: {value}: .*{reason}"):
        request_of(wishing)
    wishing.spec.node_name = "n"
    assert request_of(wishing) is not None, "it runs already, and counts as what it is"


@pytest.mark.parametrize(
    ("name", "value", "resource"),
    [
        ("gpu-memory", "2000", VRAM),
        ("gpu-fraction", "0.5", MILLI),
        ("gpu-fraction-num-devices", "2", CARDS),
    ],
)
def test_annotations_that_the_admission_policy_has_not_turned_into_resources(
    name: str, value: str, resource: str
) -> None:
    """R15 (KAI#257, #262): such a pod would run beside others without being counted."""
    asking = noted({"cpu": "1"})
    asking.metadata.annotations[name] = value
    with pytest.raises(RequestError, match=f"annotation {name}: {value}: .*admission policy.*{resource}"):
        request_of(asking)
    turned = noted({MILLI: "500"})
    turned.metadata.annotations[name] = value
    assert request_of(turned) == pinned(milli=500)
    assert request_of(noted({"cpu": "1"}, scheduler="kai-scheduler", **{name.replace("-", "_"): value})) is None


@pytest.mark.parametrize(
    ("limits", "annotations", "words"),
    [
        pytest.param({GPU: "1"}, {"nvidia.com__gpumem": "4000"}, ["nvidia.com/gpumem: 4000: it belongs under"], id="R05 HAMi#2862"),
        pytest.param({GPU: "2", GPUMEM: "3000", CORES: "30"}, {}, [f"{CORES}: 30: compute is not divided"], id="R01 HAMi#1429"),
        ({GPUMEM: "3000", "nvidia.com/priority": "1"}, {}, ["nvidia.com/priority: 1: "]),
        ({GPUMEM: "3000"}, {"nvidia.com__numa_bind": "true"}, ["annotation nvidia.com/numa-bind: true: "]),
        ({GPUMEM: "3000"}, {"nvidia.com__numa_bind": "false"}, []),
        ({GPU: "1"}, {"hami.io__gpu_scheduler_policy": "spread"}, ["gpu-scheduler-policy: spread: the device plugin picks the card"]),
        ({VRAM: "8Gi"}, {"hami.io__gpu_scheduler_policy": "spread"}, []),
        ({"cpu": "1"}, {"nvidia.com__gpumem": "4000"}, []),
        ({CORES: "0", GPU: "1"}, {}, []),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_told(limits: dict[str, Any], annotations: dict[str, str], words: list[str]) -> None:
    asking = noted(limits, **annotations)
    told = ignored_words(asking, demand_of(asking))
    assert len(told) == len(words)
    assert all(part in text for part, text in zip(words, told, strict=True))


def test_the_unit_of_gpushare_is_the_cluster_s() -> None:
    """R11 (gpushare#16, #217, #56)."""
    assert request_of(pod({ALIYUN: "3000"}), Customs(gpushare_unit_mib=1)) == pinned(vram_mib=3000)
    with pytest.raises(RequestError, match="some nodes count it in GiB and some in MiB"):
        request_of(pod({ALIYUN: "3000"}), Customs(gpushare_unit_mib=0))
    assert request_of(pod({GPUMEM: "3000"}), Customs(gpushare_unit_mib=0)) == pinned(vram_mib=3000)


@pytest.mark.parametrize(
    ("amount", "customs", "vram_mib"),
    [
        pytest.param("8138", Customs(), 8138, id="R11 gpushare's samples/1.yaml: no card has 8138 GiB"),
        pytest.param("1023", Customs(), 1023 * 1024, id="as many GiB as a card may have"),
        pytest.param("2000", Customs(gpushare_told=True), 2000 * 1024, id="what is told is believed"),
    ],
)
def test_an_amount_that_no_card_has_in_gib_is_in_mib_where_nothing_tells(
    amount: str, customs: Customs, vram_mib: int
) -> None:
    assert request_of(pod({ALIYUN: amount}), customs) == pinned(vram_mib=vram_mib)


def test_devices_for_each_container_are_told_from_several_for_one() -> None:
    """S01 (k8s-device-plugin#929): a plugin may refuse a container that asks for several shared devices."""
    assert request_of(pod({GPU: "1"}, {GPU: "1"})) == slices(2, one_device_each=True)
    assert request_of(pod({GPU: "1"}, {GPU: "2"})) == slices(3)
    assert request_of(pod({GPU: "2"})) == slices(2)
