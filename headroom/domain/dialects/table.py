"""All dialects in one table: a new one is a file of this folder and an entry of `FAMILIES`."""

from types import MappingProxyType
from typing import Final

from headroom.domain.accelerators import BY_RESOURCE
from headroom.domain.dialects.gpushare import GPUSHARE
from headroom.domain.dialects.hami import HAMI, VOLCANO
from headroom.domain.dialects.kai import KAI
from headroom.domain.dialects.own import DEVICE_PLUGINS, HEADROOM

FAMILIES: Final = (DEVICE_PLUGINS, HEADROOM, HAMI, GPUSHARE, VOLCANO, KAI)

SIZES: Final = MappingProxyType({size.name: size for family in FAMILIES for size in family.sizes})
COUNTS: Final = MappingProxyType({count.name: count for family in FAMILIES for count in family.counts})
COMPANIONS: Final = MappingProxyType({word.name: word for family in FAMILIES for word in family.companions})
ANNOTATIONS: Final = MappingProxyType({word.name: word for family in FAMILIES for word in family.annotations})

GUARDED: Final = (*SIZES, *COUNTS, *COMPANIONS)
"""Resources that the extender alone guards: kube-scheduler is to ignore them (`ignoredByScheduler: true`)."""
DEVICES: Final = tuple(BY_RESOURCE)
"""Resources that device plugins advertise, and that kube-scheduler counts."""
READ: Final = frozenset((*GUARDED, *DEVICES))
"""Every resource that is read."""
