"""What the meaning of a pod depends on besides the pod: the customs of its cluster. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from headroom.domain.dialects import gpushare

AUTO: Final = "auto"
UNITS: Final = MappingProxyType({"GiB": gpushare.GIB, "MiB": 1})


@dataclass(frozen=True, slots=True)
class Customs:
    """`gpushare_unit_mib` is MiB in one unit of `aliyun.com/gpu-mem`; 0 where nodes contradict each other about it.

    `gpushare_told` says whether a setting or a node tells the unit; else an amount that no card has in GiB is in MiB.
    `records` says which scheduler's pods carry which family's record of their cards, by scheduler name.
    """

    gpushare_unit_mib: int = gpushare.GIB
    gpushare_told: bool = False
    records: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def gpushare_unit_of(self, amount: int) -> int:
        """MiB in one unit of this amount; 0 where nobody can say."""
        usual = not self.gpushare_told and self.gpushare_unit_mib == gpushare.GIB
        return 1 if usual and amount >= gpushare.NO_CARD_HAS else self.gpushare_unit_mib


USUAL: Final = Customs()


def gpushare_unit(setting: str, units_of_nodes: Iterable[int]) -> int:
    """The unit of a cluster: as it is set, else as its nodes advertise it, else GiB; 0 where they contradict each other."""
    if setting != AUTO:
        return UNITS[setting]
    units = set(units_of_nodes)
    return (units or {gpushare.GIB}).pop() if len(units) <= 1 else 0
