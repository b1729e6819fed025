"""What other schedulers write on the pods that they placed, read while a cluster moves from one of them to Headroom. Pure.

Anybody may write annotations on a pod of theirs. So this is read behind a setting, for pods of the named schedulers only, and
never for less than the pod itself asks for.
"""

import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from headroom import wire
from headroom.domain.assignment import Assignment
from headroom.domain.model import LARGEST_MIB, Mode
from headroom.errors import HeadroomError

_Shares: TypeAlias = list[tuple[str, int]]
"""Card and MiB of each share."""

_HAMI: Final = "hami.io/vgpu-devices-allocated"
_HAMI_TEMPLATE: Final = re.compile(r"\[.*\]$")  # of a MIG instance, behind the UUID
_GPUSHARE_CARD: Final = "ALIYUN_COM_GPU_MEM_IDX"
_GPUSHARE_MEMORY: Final = "ALIYUN_COM_GPU_MEM_POD"
_GPUSHARE_BY_CONTAINER: Final = "scheduler.framework.gpushare.allocation"
_KAI_CARD: Final = "run.ai/reserve_for_gpu_index"


class RecordError(HeadroomError, ValueError):
    """A record that cannot be read; names the annotation and the value."""

    def __init__(self, annotation: str, value: str, reason: str) -> None:
        super().__init__(f"annotation {annotation}: {value[:200]!r}: {reason}")


def record_of(pod: wire.Pod, family: str, mode: Mode, gpushare_unit_mib: int) -> Assignment | None:
    """The cards that a pod of another scheduler holds, by that scheduler's own record; None where there is none.

    A share of 0 MiB is what the pod asks for. Raises RecordError.
    """
    shares = _FAMILIES[family](pod.metadata.annotations, max(gpushare_unit_mib, 1))
    if mode is Mode.PINNED:  # all containers see all of the pod's cards
        merged: dict[str, int] = {}
        for card, mib in shares:
            merged[card] = merged.get(card, 0) + mib
        shares = list(merged.items())
    if not shares:
        return None
    return Assignment(tuple(card for card, _ in shares), tuple(min(mib, LARGEST_MIB) for _, mib in shares), mode)


def _of_hami(annotations: Mapping[str, str], _: int) -> _Shares:
    """`UUID,NVIDIA,MiB,cores:` for each device, with `;` between containers."""
    text = annotations.get(_HAMI, "")
    found: _Shares = []
    for entry in re.split("[:;]", text):
        if not entry.strip():
            continue
        fields = entry.split(",")
        if len(fields) < 4 or not fields[0] or not fields[2].isdigit():
            raise RecordError(_HAMI, text, "not a list of UUID,type,MiB,cores")
        found.append((_HAMI_TEMPLATE.sub("", fields[0]), int(fields[2])))
    return found


def _of_gpushare(annotations: Mapping[str, str], unit_mib: int) -> _Shares:
    """One card's index and units of memory, or by container `{"0": {"1": 6}}`: the card's index and units."""
    by_container = annotations.get(_GPUSHARE_BY_CONTAINER)
    found: _Shares = []
    if by_container is not None:
        try:
            for cards in json.loads(by_container).values():
                found += [(str(int(card)), int(units) * unit_mib) for card, units in cards.items()]
        except (ValueError, AttributeError, TypeError) as error:
            raise RecordError(_GPUSHARE_BY_CONTAINER, by_container, "not cards by container") from error
        return found
    card, units = annotations.get(_GPUSHARE_CARD), annotations.get(_GPUSHARE_MEMORY, "0")
    if card is None or card == "-1":
        return []
    if not card.isdigit() or not units.isdigit():
        raise RecordError(
            f"{_GPUSHARE_CARD} and {_GPUSHARE_MEMORY}", f"{card} and {units}", "not a card and its memory"
        )
    return [(card, int(units) * unit_mib)]


def _of_kai(annotations: Mapping[str, str], _: int) -> _Shares:
    """A reservation pod names the card that it keeps for pods with a part of it; it holds the whole card."""
    card = annotations.get(_KAI_CARD, "")
    return [(card, 0)] if card and card != "-1" else []


_FAMILIES: Final[Mapping[str, Callable[[Mapping[str, str], int], _Shares]]] = MappingProxyType(
    {"hami": _of_hami, "gpushare": _of_gpushare, "kai": _of_kai}
)
SCHEDULERS: Final = MappingProxyType(
    {"hami": "hami-scheduler", "gpushare": "default-scheduler", "kai": "kai-scheduler"}
)
"""The families, and the name that each one's scheduler usually has."""


def records_by_scheduler(setting: tuple[str, ...]) -> dict[str, str]:
    """Family by scheduler name, from entries `family` or `family=scheduler`. Raises ValueError naming the entry."""
    found = {}
    for entry in setting:
        family, _, scheduler = entry.partition("=")
        if family not in _FAMILIES:
            raise ValueError(f"{entry!r}: not one of {', '.join(_FAMILIES)}")
        found[scheduler or SCHEDULERS[family]] = family
    return found
