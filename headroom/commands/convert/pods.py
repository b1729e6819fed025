"""Pods of HAMi and gpushare, and templates that hold them, in Headroom's resources. Pure.

Such pods run on Headroom as they are (docs/requests.md); converting them makes the manifest say what it means, and moves the
engine's memory flag to the share that was really given.
"""

import copy
import re
from collections.abc import Iterator
from typing import Any, Final

from headroom import names
from headroom.commands.convert.notes import ConvertError, Manifest, Notes
from headroom.errors import HeadroomError
from headroom.units import parse_quantity, quantity_to_int

_HAMI_CORES: Final = "nvidia.com/gpucores"
_HAMI_PRIORITY: Final = "nvidia.com/priority"
_GPUSHARE_COUNT: Final = "aliyun.com/gpu-count"
_GPUSHARE_CORES: Final = "aliyun.com/gpu-core.percentage"
_READ: Final = (
    names.RESOURCE_HAMI_MEMORY, names.RESOURCE_HAMI_MEMORY_PERCENT, names.RESOURCE_GPUSHARE_MEMORY, _HAMI_CORES, _HAMI_PRIORITY,
    _GPUSHARE_COUNT, _GPUSHARE_CORES,
)  # fmt: skip
_SCHEDULERS: Final = {"hami-scheduler", "gpushare-scheduler", "gpushare-schd-extender"}
_STAYS: Final = {
    "volcano": "Volcano goes on placing the pod; with schedulerName: headroom its volcano.sh/vgpu-* are read (docs/requests.md)",
    "kai-scheduler": "KAI goes on placing the pod; with schedulerName: headroom the admission policy reads its gpu-fraction and gpu-memory"
    " (docs/requests.md)",
}
_MEMORY_FLAG: Final = re.compile(r"^(--gpu-memory-utilization|--cuda-memory-fraction)=?(.*)$")


def pod_specs(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Every pod spec inside an object: a pod's own, a template's, a template's of a template."""
    if manifest.get("kind") == "Pod":
        spec = manifest.get("spec")
        if isinstance(spec, dict):
            yield spec
        return
    pending: list[Any] = [manifest.get("spec")]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            if isinstance(value.get("containers"), list):
                yield value
            else:
                pending += value.values()


def convert_workload(manifest: Manifest, notes: Notes) -> Manifest:
    """The object with every GPU demand in Headroom's resources. Raises ConvertError for a value that is no quantity."""
    result = copy.deepcopy(manifest)
    for spec in pod_specs(result):
        containers = [*spec.get("containers", []), *(spec.get("initContainers") or [])]
        changed = [_convert_container(container, notes) for container in containers if isinstance(container, dict)]
        if any(changed):
            _convert_scheduler(spec, notes)
        if spec.get("schedulerName") in _STAYS:
            notes.look_at.append(f"schedulerName {spec['schedulerName']}: {_STAYS[spec['schedulerName']]}")
    return result


def _convert_scheduler(spec: dict[str, Any], notes: Notes) -> None:
    name = spec.get("schedulerName")
    if name in _SCHEDULERS:
        spec["schedulerName"] = names.SCHEDULER_NAME
        notes.carried.append(f"schedulerName {name} -> {names.SCHEDULER_NAME}")


def _convert_container(container: dict[str, Any], notes: Notes) -> bool:
    resources = container.get("resources")
    if not isinstance(resources, dict):
        return False
    amounts = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    if not any(name in amounts for name in _READ):
        return False
    wanted = _wanted(
        {name: str(value) for name, value in amounts.items()}, f"{notes.of}, container {container.get('name')}", notes
    )
    for part in ("limits", "requests"):
        if isinstance(resources.get(part), dict):
            for name in (*_READ, names.RESOURCE_NVIDIA_GPU):
                resources[part].pop(name, None)
            if not resources[part]:
                del resources[part]
    resources.setdefault("limits", {}).update(wanted)
    notes.carried.append(
        f"container {container.get('name')}: " + ", ".join(f"{key}: {value}" for key, value in wanted.items())
    )
    _convert_flags(container, notes)
    return True


def _wanted(amounts: dict[str, str], where: str, notes: Notes) -> dict[str, str]:
    """Headroom's limits for a container's amounts of another dialect."""

    def whole(name: str) -> int:
        try:
            return quantity_to_int(amounts[name])
        except HeadroomError as error:
            raise ConvertError(f"{where}: {name}: {error}") from error

    for name, words in (
        (_HAMI_CORES, "a share of compute is not enforced: engines on one card take turns"),
        (_GPUSHARE_CORES, "a share of compute is not enforced: engines on one card take turns"),
        (_HAMI_PRIORITY, "HAMi's priority inside a card has no counterpart; a PriorityClass decides who may preempt"),
    ):
        if name in amounts:
            notes.left_out.append(f"{name}: {words}")
    if names.RESOURCE_GPUSHARE_MEMORY in amounts:
        count = whole(_GPUSHARE_COUNT) if _GPUSHARE_COUNT in amounts else 1
        size = {names.RESOURCE_VRAM: f"{whole(names.RESOURCE_GPUSHARE_MEMORY)}Gi"}
        notes.look_at.append(
            f"{names.RESOURCE_GPUSHARE_MEMORY} was read as GiB; a cluster that counts MiB needs Mi instead"
        )
    else:
        count = whole(names.RESOURCE_NVIDIA_GPU) if names.RESOURCE_NVIDIA_GPU in amounts else 1
        if names.RESOURCE_HAMI_MEMORY in amounts:
            size = {names.RESOURCE_VRAM: f"{_mib(amounts[names.RESOURCE_HAMI_MEMORY], where)}Mi"}
        elif names.RESOURCE_HAMI_MEMORY_PERCENT in amounts:
            size = {names.RESOURCE_GPU_MILLI: str(whole(names.RESOURCE_HAMI_MEMORY_PERCENT) * 10)}
        else:
            return {names.RESOURCE_GPU: str(count)}
    return {names.RESOURCE_GPU: str(count), **size} if count > 1 else size


def _mib(text: str, where: str) -> int:
    """HAMi's gpumem counts MiB; a suffix multiplies that count, as Kubernetes reads quantities."""
    try:
        value = parse_quantity(text)
    except HeadroomError as error:
        raise ConvertError(f"{where}: {names.RESOURCE_HAMI_MEMORY}: {error}") from error
    return -int(-value // 1)


def _convert_flags(container: dict[str, Any], notes: Notes) -> None:
    """Let the engine take the share that was given, where it says a share of its own."""
    for field in ("args", "command"):
        words = container.get(field)
        if not isinstance(words, list):
            continue
        for at, word in enumerate(words):
            flag = _MEMORY_FLAG.match(str(word))
            if flag is None or "HEADROOM_VRAM_SHARE" in flag[2]:
                continue
            if flag[2]:
                words[at] = f"{flag[1]}=$(HEADROOM_VRAM_SHARE)"
            elif at + 1 < len(words):
                words[at + 1] = "$(HEADROOM_VRAM_SHARE)"
            notes.carried.append(f"{flag[1]} -> $(HEADROOM_VRAM_SHARE): the engine takes what the pod was given")
