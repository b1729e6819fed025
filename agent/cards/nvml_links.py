"""The calls of NVML that tell how cards are linked; `agent.cards.links` makes the matrix of their answers."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import pynvml

from agent.cards.links import SWITCH, CardLinks, settle
from agent.cards.reader import Missing
from headroom.domain.links import Links

_READ: Final = 0
"""NVML_P2P_CAPS_INDEX_READ; in pynvml a comma has made a tuple of it."""

Ask = Callable[..., Any]
"""Makes one call: its answer, or why there is none."""


LINKS_SECONDS: Final = 600.0
"""Links change when one fails or is repaired, and asking takes some ten calls for each two cards."""


class LinkWatch:
    """Remembers how the cards are linked, and asks anew now and then, and when other cards are there."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.forget()

    def forget(self) -> None:
        """Ask anew next time."""
        self._asked_at = float("-inf")
        self._cards: frozenset[str] = frozenset()
        self._told: tuple[Links | None, str] = None, ""

    def of(self, handles: Mapping[str, Any], now: float) -> tuple[Links | None, str]:
        """The links of the cards, given by UUID, and what is wrong with them. Raises what `ask` raises, and asks anew then."""
        if handles.keys() != self._cards or now - self._asked_at >= LINKS_SECONDS:
            self.forget()
            self._told = settle([_card(uuid, handle, handles, self._ask) for uuid, handle in handles.items()])
            self._asked_at, self._cards = now, frozenset(handles)
        return self._told


def _card(uuid: str, handle: Any, handles: Mapping[str, Any], ask: Ask) -> CardLinks:
    levels, no_p2p, fault = {}, set(), ""
    for other, its_handle in handles.items():
        if other == uuid:
            continue
        level = ask(pynvml.nvmlDeviceGetTopologyCommonAncestor, handle, its_handle)
        if isinstance(level, Missing):
            fault = f"nvmlDeviceGetTopologyCommonAncestor: {level.value}"
        else:
            levels[other] = int(level)
        status = ask(pynvml.nvmlDeviceGetP2PStatus, handle, its_handle, _READ)
        # Where the driver does not tell, cards of one node are taken to reach one another, as they mostly do.
        if not isinstance(status, Missing) and status != pynvml.NVML_P2P_STATUS_OK:
            no_p2p.add(other)
    return CardLinks(
        uuid, _bus(ask(pynvml.nvmlDeviceGetPciInfo, handle)), _nvlinks(handle, ask), levels, frozenset(no_p2p), fault
    )


def _nvlinks(handle: Any, ask: Ask) -> tuple[str, ...]:
    """Where each working NVLink of a card leads; a link that is down, or leads nowhere that has a name, is left out."""
    found = []
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        active = ask(pynvml.nvmlDeviceGetNvLinkState, handle, link)
        if active is Missing.NOT_SUPPORTED:
            break  # a card without NVLink
        if isinstance(active, Missing) or not active:
            continue
        kind = ask(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
        if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
            found.append(SWITCH)
        elif bus := _bus(ask(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)):
            found.append(bus)
    return tuple(found)


def _bus(pci: Any) -> str:
    """A PCI bus id as text, empty where it is not told."""
    if isinstance(pci, Missing):
        return ""
    text = pci.busId
    return (text.decode(errors="replace") if isinstance(text, bytes) else str(text)).lower()
