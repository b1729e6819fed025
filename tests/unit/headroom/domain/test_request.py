"""What pods ask for, in every dialect."""

from typing import Any

import pytest

from headroom import wire
from headroom.domain.model import GpuRequest
from headroom.domain.request import RequestError, demand_of, host_demand, project_of, request_of
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

SHARED = "nvidia.com/gpu.shared"
PERCENT = "nvidia.com/gpumem-percentage"
COUNT = "aliyun.com/gpu-count"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        # whole devices and slices
        ({GPU: "1"}, slices(1)),
        ({GPU: 2}, slices(2)),
        ({SHARED: "3"}, slices(3, SHARED)),
        ({"amd.com/gpu": "2"}, slices(2, "amd.com/gpu")),
        ({"google.com/tpu": "4"}, slices(4, "google.com/tpu")),
        ({"habana.ai/gaudi": "8"}, slices(8, "habana.ai/gaudi")),
        # memory in any suffix, rounded up to a MiB
        ({VRAM: "20Gi"}, pinned(vram_mib=20480)),
        ({VRAM: "20480Mi"}, pinned(vram_mib=20480)),
        ({VRAM: "20G"}, pinned(vram_mib=19074)),
        ({VRAM: "8e10"}, pinned(vram_mib=76294)),
        ({VRAM: "1"}, pinned(vram_mib=1)),
        ({VRAM: 8589934592}, pinned(vram_mib=8192)),
        # memory per device
        ({GPU: "1", VRAM: "8Gi"}, slices(1, vram_mib=8192)),
        ({GPU: "2", VRAM: "40Gi"}, slices(2, vram_mib=40960)),
        ({SHARED: "1", VRAM: "8Gi"}, slices(1, SHARED, vram_mib=8192)),
        # thousandths
        ({MILLI: "476"}, pinned(milli=476)),
        ({MILLI: "1000"}, pinned(milli=1000)),
        ({MILLI: "1k"}, pinned(milli=1000)),
        ({GPU: "2", MILLI: "500"}, slices(2, milli=500)),
        # cards of Headroom's choice
        ({CARDS: "2"}, pinned(2)),
        ({CARDS: "2", VRAM: "40Gi"}, pinned(2, vram_mib=40960)),
        ({CARDS: "4", MILLI: "1000"}, pinned(4, milli=1000)),
        ({CARDS: "2", GPUMEM: "3000"}, pinned(2, vram_mib=3000)),
        ({CARDS: "0"}, None),
        # other sharing schedulers
        ({GPUMEM: "3000"}, pinned(vram_mib=3000)),
        ({GPU: "2", GPUMEM: "10240"}, slices(2, vram_mib=10240)),
        ({GPU: "1", GPUMEM: "10240", "nvidia.com/gpucores": "30"}, slices(1, vram_mib=10240)),
        ({PERCENT: "25"}, pinned(milli=250)),
        ({GPU: "1", PERCENT: "50"}, slices(1, milli=500)),
        ({ALIYUN: "8"}, pinned(vram_mib=8192)),
        pytest.param(
            {ALIYUN: "5", COUNT: "2"}, pinned(2, vram_mib=5120), id="R13 gpushare#174: so much on each of two cards"
        ),
        pytest.param({GPUMEM: "3000", CORES: "30"}, pinned(vram_mib=3000), id="R01 HAMi#1429: cores are accepted"),
        pytest.param({GPU: "1", CORES: "30"}, slices(1), id="cores beside a device"),
        pytest.param({CORES: "30"}, pinned(1), id="HAMi makes a card of cores alone"),
        pytest.param({"nvidia.com/priority": "1"}, None, id="a priority alone is no card"),
        pytest.param(
            {ALIYUN: "8", "aliyun.com/gpu-core.percentage": "30"}, pinned(vram_mib=8192), id="R24 gpushare's percentage"
        ),
        ({"volcano.sh/vgpu-number": "2"}, pinned(2)),
        (
            {"volcano.sh/vgpu-number": "2", "volcano.sh/vgpu-memory": "3000", "volcano.sh/vgpu-cores": "50"},
            pinned(2, vram_mib=3000),
        ),
        ({"volcano.sh/vgpu-memory-percentage": "50"}, pinned(milli=500)),
        # nothing
        ({}, None),
        ({"cpu": "2", "memory": "4Gi"}, None),
        ({GPU: "0"}, None),
        ({VRAM: "0", GPU: "0"}, None),
        ({VRAM: "0", GPU: "1"}, slices(1)),
        ({GPU: "0", VRAM: "4Gi"}, pinned(vram_mib=4096)),
        ({"nvidia.com/mig-1g.10gb": "1"}, None),
    ],
)
def test_one_container(limits: dict[str, Any], expected: GpuRequest | None) -> None:
    asked = request_of(pod(dict(limits)))
    assert asked == expected


@pytest.mark.parametrize(
    ("main", "init", "expected"),
    [
        # devices: every container has its own
        (({GPU: "1"}, {GPU: "1"}), (), slices(2)),
        (({GPU: "1", VRAM: "20Gi"}, {GPU: "2", VRAM: "10Gi"}), (), slices(3, vram_mib=20480)),
        (({GPU: "1"}, {"cpu": "1"}), (), slices(1)),
        # memory without a device: all containers share the one card
        (({VRAM: "20Gi"}, {VRAM: "4Gi"}), (), pinned(vram_mib=24576)),
        (({MILLI: "300"}, {MILLI: "200"}), (), pinned(milli=500)),
        (({ALIYUN: "4"}, {ALIYUN: "2"}), (), pinned(vram_mib=6144)),
        (({CARDS: "2", VRAM: "20Gi"}, {CARDS: "1", VRAM: "4Gi"}), (), pinned(2, vram_mib=24576)),
        (({CARDS: "2", VRAM: "20Gi"}, {VRAM: "4Gi"}), (), pinned(2, vram_mib=24576)),
        (({CARDS: "2"}, {CARDS: "2"}), (), pinned(2)),
        # init containers run one after another
        (({GPU: "1"},), ({GPU: "2"}, {GPU: "1"}), slices(2)),
        (({VRAM: "8Gi"},), ({VRAM: "2Gi"},), pinned(vram_mib=8192)),
        (({VRAM: "8Gi"},), ({VRAM: "12Gi"},), pinned(vram_mib=12288)),
        (({},), ({GPU: "1"},), slices(1)),
        # sidecars stay
        (({VRAM: "8Gi"},), ({VRAM: "2Gi", "sidecar": True},), pinned(vram_mib=10240)),
        (({GPU: "1"},), ({GPU: "1", "sidecar": True}, {GPU: "2"}), slices(3)),
        (({GPU: "1"},), ({GPU: "2"}, {GPU: "1", "sidecar": True}), slices(2)),
    ],
)
def test_several_containers(
    main: tuple[dict[str, Any], ...], init: tuple[dict[str, Any], ...], expected: GpuRequest
) -> None:
    asked = request_of(pod(*map(dict, main), init=tuple(map(dict, init))))
    assert asked is not None
    assert (asked.count, asked.mode, asked.vram_mib, asked.milli) == (
        expected.count, expected.mode, expected.vram_mib, expected.milli,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "resource", "value", "reason"),
    [
        ({GPU: "-1"}, GPU, "-1", "below zero"),
        ({GPU: "1.5"}, GPU, "1.5", "not a whole number"),
        ({GPU: "500m"}, GPU, "500m", "not a whole number"),
        ({VRAM: "plenty"}, VRAM, "plenty", "not a quantity"),
        ({VRAM: "-20Gi"}, VRAM, "-20Gi", "below zero"),
        ({VRAM: "1" * 100}, VRAM, "1" * 100, "not a quantity"),
        ({MILLI: "1001"}, MILLI, "1001", "more than one whole card"),
        ({GPU: "2", MILLI: "2000"}, MILLI, "2000", "more than one whole card"),
        ({PERCENT: "101"}, PERCENT, "101", "more than one whole card"),
        ({PERCENT: "2.5"}, PERCENT, "2.5", "not a whole number"),
        ({GPU: "1", SHARED: "1"}, f"{GPU} and {SHARED}", "1 and 1", "one kind of device"),
        ({GPU: "1", "amd.com/gpu": "2"}, f"{GPU} and amd.com/gpu", "1 and 2", "one kind of device"),
        ({VRAM: "8Gi", MILLI: "100"}, f"{VRAM} and {MILLI}", "8Gi and 100", "one way only"),
        ({GPUMEM: "8", PERCENT: "9"}, f"{GPUMEM} and {PERCENT}", "8 and 9", "one way only"),
        ({VRAM: "8Gi", ALIYUN: "8"}, f"{VRAM} and {ALIYUN}", "8Gi and 8", "one way only"),
        ({GPU: "1", ALIYUN: "8"}, f"{GPU} and {ALIYUN}", "1 and 8", "no device beside it"),
        ({"amd.com/gpu": "1", VRAM: "8Gi"}, f"amd.com/gpu and {VRAM}", "1 and 8Gi", "AMD devices go out whole"),
        ({"google.com/tpu": "4", MILLI: "8"}, f"google.com/tpu and {MILLI}", "4 and 8", "Google devices go out whole"),
        ({GPU: "1", CARDS: "2"}, f"{GPU} and {CARDS}", "1 and 2", "or Headroom does"),
        ({CARDS: "2", ALIYUN: "8"}, f"{CARDS} and {ALIYUN}", "2 and 8", "no device beside it"),
        ({CARDS: "500m"}, CARDS, "500m", "not a whole number"),
        ({"headroom.dev/vrma": "8Gi"}, "headroom.dev/vrma", "8Gi", "no such resource"),
        ({COUNT: "2"}, COUNT, "2", "it counts the cards of aliyun.com/gpu-mem"),
        ({COUNT: "2", VRAM: "8Gi"}, f"{COUNT} and {VRAM}", "2 and 8Gi", "it goes with aliyun.com/gpu-mem"),
        ({COUNT: "2", CARDS: "2"}, f"{COUNT} and {CARDS}", "2 and 2", "counted in one way only"),
        ({GPU: "1", "volcano.sh/vgpu-number": "1"}, f"{GPU} and volcano.sh/vgpu-number", "1 and 1", "or Headroom does"),
        (
            {GPU: "1", "volcano.sh/vgpu-memory": "8"},
            f"{GPU} and volcano.sh/vgpu-memory",
            "1 and 8",
            "go with volcano.sh/vgpu-number",
        ),
        (
            {"volcano.sh/vgpu-number": "1", GPUMEM: "8"},
            f"volcano.sh/vgpu-number and {GPUMEM}",
            "1 and 8",
            "it goes with volcano.sh/",
        ),
        ({GPUMEM: "8", CORES: "many"}, CORES, "many", "not a quantity"),
    ],
)
def test_what_cannot_be_understood(limits: dict[str, Any], resource: str, value: str, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        request_of(pod({}, dict(limits)))
    error = caught.value
    assert (error.pod, error.container, error.resource, error.value) == ("team-a/web", "c1", resource, value)
    assert reason in error.reason
    assert all(part in str(error) for part in ("team-a/web", "c1", resource, reason))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({GPU: "1"}, {GPU: "1", VRAM: "8Gi"}),
        ({VRAM: "8Gi"}, {GPU: "1", VRAM: "8Gi"}),
        ({VRAM: "8Gi"}, {GPUMEM: "8192"}),
        ({GPU: "1"}, {SHARED: "1"}),
        ({CARDS: "1"}, {VRAM: "8Gi"}),
        ({CARDS: "1"}, {GPU: "1"}),
    ],
)
def test_containers_that_ask_differently_are_refused(one: dict[str, Any], other: dict[str, Any]) -> None:
    for containers in ((one, other), (other, one)):
        with pytest.raises(RequestError, match="must ask in the same way"):
            request_of(pod(*map(dict, containers)))
    with pytest.raises(RequestError, match="must ask in the same way"):
        request_of(pod(dict(one), init=(dict(other),)))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({GPU: "4097"}, f"{GPU}: 4097: more than 4096 cards or slices"),
        ({CARDS: "9223372036854775807"}, f"{CARDS}: 9223372036854775807: more than 4096 cards or slices"),
        ({GPUMEM: "2147483649"}, f"{GPUMEM}: 2147483649 MiB: no card has as much"),
    ],
)
def test_amounts_that_no_node_could_ever_have(limits: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        request_of(pod(limits))


def test_thousandths_of_one_card_may_not_add_up_to_more_than_it() -> None:
    with pytest.raises(RequestError, match=r"1001: .*more than one whole card"):
        request_of(pod({MILLI: "501"}, {MILLI: "500"}))


def test_a_limit_counts_before_a_request_and_must_equal_it() -> None:
    both = wire.Resources(limits={VRAM: "8Gi"}, requests={VRAM: "8192Mi"})
    only = wire.Resources(requests={VRAM: "8Gi"})
    for resources in (both, only):
        asked = request_of(wire.Pod(spec=wire.PodSpec(containers=(wire.Container(resources=resources),))))
        assert asked == pinned(vram_mib=8192)
    unequal = wire.Resources(limits={VRAM: "8Gi"}, requests={VRAM: "4Gi"})
    with pytest.raises(RequestError, match="limit 8Gi, request 4Gi"):
        request_of(wire.Pod(spec=wire.PodSpec(containers=(wire.Container(resources=unequal),))))


def required(*terms: dict[str, list[str]]) -> wire.Affinity:
    return wire.Affinity(
        node_affinity=wire.NodeAffinity(
            required=wire.NodeSelector(
                node_selector_terms=tuple(
                    wire.NodeSelectorTerm(
                        match_expressions=tuple(
                            wire.SelectorTerm(key=key, operator="In", values=tuple(values))
                            for key, values in term.items()
                        )
                    )
                    for term in terms
                )
            )
        )
    )


PRODUCT = "nvidia.com/gpu.product"


@pytest.mark.parametrize(
    ("selector", "affinity", "models"),
    [
        ({}, None, set()),
        ({PRODUCT: "NVIDIA-L4"}, None, {"NVIDIA-L4"}),
        ({PRODUCT: "Tesla-T4-SHARED"}, None, {"Tesla-T4"}),
        ({"zone": "a"}, None, set()),
        ({}, required({PRODUCT: ["A", "B"]}), {"A", "B"}),
        ({}, required({PRODUCT: ["A"]}, {PRODUCT: ["B"]}), {"A", "B"}),
        ({}, required({PRODUCT: ["A"]}, {"zone": ["b"]}), set()),
        ({PRODUCT: "A"}, required({PRODUCT: ["A", "B"]}), {"A"}),
        ({PRODUCT: "A"}, required({"zone": ["b"]}), {"A"}),
    ],
)
def test_card_models(selector: dict[str, str], affinity: wire.Affinity | None, models: set[str]) -> None:
    asked = request_of(pod({VRAM: "1Gi"}, node_selector=selector, affinity=affinity))
    assert asked is not None
    assert asked.models == models


def test_selectors_that_exclude_every_model_are_refused() -> None:
    contradiction = pod({GPU: "1"}, node_selector={PRODUCT: "A"}, affinity=required({PRODUCT: ["B"]}))
    with pytest.raises(RequestError, match="exclude every card model"):
        request_of(contradiction)


def test_host_demand_follows_kubernetes() -> None:
    asked = pod(
        {"cpu": "1500m", "memory": "1Gi"},
        {"cpu": 1},
        init=({"cpu": "3", "memory": "512Mi"}, {"cpu": "250m", "memory": "256Mi", "sidecar": True}),
        overhead={"cpu": "100m", "memory": "1Mi"},
    )
    assert host_demand(asked) == (3100, 1281)
    assert demand_of(asked) == GpuRequest(count=0, cpu_milli=3100, memory_mib=1281)


def test_requests_of_cpu_count_before_limits_and_the_pod_level_before_both() -> None:
    resources = wire.Resources(limits={"cpu": "4", "memory": "1Gi"}, requests={"cpu": "1"})
    spec = wire.PodSpec(containers=(wire.Container(resources=resources),))
    assert host_demand(wire.Pod(spec=spec)) == (1000, 1024)
    spec.resources = wire.Resources(requests={"cpu": "2"})
    assert host_demand(wire.Pod(spec=spec)) == (2000, 1024)


@pytest.mark.parametrize("value", ["two", "-1"])
def test_cpu_that_cannot_be_read(value: str) -> None:
    with pytest.raises(RequestError, match=f"team-a/web, container c0: cpu: {value}"):
        request_of(pod({"cpu": value, GPU: "1"}))


def test_project_is_the_label_else_the_namespace() -> None:
    labelled = wire.Pod(metadata=wire.Meta(namespace="team-a", labels={"headroom.dev/project": "chat"}))
    assert project_of(labelled) == "chat"
    assert project_of(wire.Pod(metadata=wire.Meta(namespace="team-a"))) == "team-a"
    assert project_of(wire.Pod()) == "default"
