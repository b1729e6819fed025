"""Learns from settings and nodes what words mean in this cluster, such as the unit of `aliyun.com/gpu-mem`. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from headroom import wire
from headroom.domain.dialects.customs import AUTO, Customs, gpushare_unit
from headroom.domain.dialects.gpushare import unit_mib_of


class CustomsLearner:
    """`unit` is the setting for gpushare's unit; `records` says whose records are read, by scheduler name."""

    def __init__(self, unit: str = AUTO, records: Mapping[str, str] = MappingProxyType({})) -> None:
        self._setting = unit
        self._units: dict[str, int] = {}
        self.customs = Customs(gpushare_unit(unit, ()), unit != AUTO, records)

    def learn(self, name: str, node: wire.Node | None) -> bool:
        """Look at a node, or note its end (None); whether the customs have changed."""
        unit = None if node is None else unit_mib_of(node)
        if unit is None:
            self._units.pop(name, None)
        else:
            self._units[name] = unit
        if not self._units:
            return False  # a cluster whose plugin has gone has not changed its manifests
        unit_mib = gpushare_unit(self._setting, self._units.values())
        learnt = replace(self.customs, gpushare_unit_mib=unit_mib, gpushare_told=True)
        if learnt == self.customs:
            return False
        self.customs = learnt
        return True
