"""What other schedulers wrote on the pods that they placed."""

import json
from typing import Any

import pytest

from headroom import wire
from headroom.domain.assignment import Assignment
from headroom.domain.dialects.records import RecordError, record_of, records_by_scheduler
from headroom.domain.model import Mode

HAMI = "hami.io/vgpu-devices-allocated"
BY_CONTAINER = "scheduler.framework.gpushare.allocation"


def record(family: str, unit_mib: int = 1024, **annotations: Any) -> Assignment | None:
    return record_of(wire.Pod(metadata=wire.Meta(name="p", annotations=annotations)), family, Mode.PINNED, unit_mib)


@pytest.mark.parametrize(
    ("family", "annotations", "cards", "share_mib"),
    [
        pytest.param(
            "hami", {HAMI: "GPU-n-1,NVIDIA,70000,0:;"}, ("GPU-n-1",), (70000,), id="L11 one container, one card"
        ),
        (
            "hami",
            {HAMI: "GPU-a,NVIDIA,3000,30:GPU-b,NVIDIA,3000,30:;;GPU-a,NVIDIA,1000,0:;"},
            ("GPU-a", "GPU-b"),
            (4000, 3000),
        ),
        ("hami", {HAMI: "GPU-a[1-0],NVIDIA,9856,0:;"}, ("GPU-a",), (9856,)),
        pytest.param(
            "gpushare",
            {"ALIYUN_COM_GPU_MEM_IDX": "1", "ALIYUN_COM_GPU_MEM_POD": "6"},
            ("1",),
            (6144,),
            id="L10 one card",
        ),
        ("gpushare", {BY_CONTAINER: json.dumps({"0": {"1": 6}, "1": {"1": 2, "0": 1}})}, ("1", "0"), (8192, 1024)),
        ("kai", {"run.ai/reserve_for_gpu_index": "GPU-c"}, ("GPU-c",), (0,)),
    ],
)
def test_records(family: str, annotations: dict[str, Any], cards: tuple[str, ...], share_mib: tuple[int, ...]) -> None:
    assert record(family, **annotations) == Assignment(cards, share_mib, Mode.PINNED)


@pytest.mark.parametrize(
    ("family", "annotations"),
    [
        ("hami", {}),
        ("hami", {HAMI: ";"}),
        ("gpushare", {"ALIYUN_COM_GPU_MEM_IDX": "-1"}),
        ("kai", {"run.ai/reserve_for_gpu_index": "-1"}),
        ("kai", {HAMI: "GPU-a,NVIDIA,3000,30:;"}),
    ],
)
def test_pods_without_a_record(family: str, annotations: dict[str, Any]) -> None:
    assert record(family, **annotations) is None


@pytest.mark.parametrize(
    ("family", "annotations"),
    [
        ("hami", {HAMI: "GPU-a"}),
        ("hami", {HAMI: "GPU-a,NVIDIA,-5,0:;"}),
        ("gpushare", {"ALIYUN_COM_GPU_MEM_IDX": "one"}),
        ("gpushare", {BY_CONTAINER: "[1]"}),
        ("gpushare", {BY_CONTAINER: '{"0": {"a": 1}}'}),
        ("gpushare", {BY_CONTAINER: "{"}),
    ],
)
def test_records_that_cannot_be_read_name_themselves(family: str, annotations: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match=r"annotation .*"):
        record(family, **annotations)


def test_whose_records_are_read() -> None:
    assert records_by_scheduler(("hami", "gpushare=gpu-scheduler")) == {
        "hami-scheduler": "hami",
        "gpu-scheduler": "gpushare",
    }
    with pytest.raises(ValueError, match="'slurm': not one of hami, gpushare, kai"):
        records_by_scheduler(("slurm",))
