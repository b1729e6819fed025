"""gpushare's words (https://github.com/AliyunContainerService/gpushare-scheduler-extender)."""

from typing import Final

from headroom import names, wire
from headroom.domain.dialects.words import Companion, Count, Family, Size, Unit
from headroom.units import UnitError, parse_quantity

COUNT: Final = "aliyun.com/gpu-count"
GIB: Final = 1024
NO_CARD_HAS: Final = 1024  # GiB; and every card has more than so many MiB

GPUSHARE: Final = Family(
    "gpushare",
    sizes=(
        Size(
            names.RESOURCE_GPUSHARE_MEMORY, Unit.GPUSHARE,
            alone="gpu-mem is memory of cards that Headroom picks, with no device beside it",
        ),
    ),
    counts=(Count(COUNT, frozenset({names.RESOURCE_GPUSHARE_MEMORY}), needs_size=True),),
    companions=(
        Companion("aliyun.com/gpu-core.percentage", "compute is not divided: pods on a card share it as the driver does"),
    ),
    examples=(
        "{aliyun.com/gpu-mem: 8}",
        "{aliyun.com/gpu-mem: 5, aliyun.com/gpu-count: 2}",
        "{aliyun.com/gpu-mem: 8, aliyun.com/gpu-core.percentage: 30}",
    ),
)  # fmt: skip


def unit_mib_of(node: wire.Node) -> int | None:
    """MiB in one unit of `aliyun.com/gpu-mem` on a node, by what gpushare's device plugin advertises; None where it does not.

    The plugin counts GiB unless it is told otherwise (`--memory-unit=MiB`). No card has a TiB, and none less than a GiB.
    """
    capacity = node.status.capacity or node.status.allocatable
    memory, cards = _amount(capacity, names.RESOURCE_GPUSHARE_MEMORY), _amount(capacity, COUNT)
    if memory <= 0:
        return None
    return 1 if memory >= NO_CARD_HAS * max(cards, 1) else GIB


def _amount(amounts: dict[str, wire.Quantity], resource: str) -> int:
    try:
        return int(parse_quantity(str(amounts.get(resource, 0))))
    except UnitError:
        return 0
