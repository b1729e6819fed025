"""`/v1/cards`: every card with what pods declared, what is used, how busy it is, and who holds what; for `headroom top`.

Made in slices: each node is true of one moment, not all of the same.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from headroom import wire
from headroom.daemon.slices import PAGE_SLICE_SECONDS, Slices
from headroom.prometheus.client import PrometheusError, PrometheusSource
from headroom.prometheus.series import DeviceJobs
from scheduler.cluster.measured import BUSY_METRICS, Busy, busy_of, line_of, query_for
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.state import ClusterState
from scheduler.ledger.holding import Holding
from scheduler.ledger.measured import Holder
from scheduler.settings import SchedulerSettings
from scheduler.verbs.explain import measured_words, request_values

_WAITING_SHOWN: Final = 50


class CardsPage:
    """The page; how busy cards are is asked of Prometheus when somebody asks for the page, and kept for a while."""

    def __init__(
        self,
        state: ClusterState,
        source: PrometheusSource | None,
        settings: SchedulerSettings,
        *,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._state, self._source, self._settings, self._unix_clock = state, source, settings, unix_clock
        self._jobs = DeviceJobs(settings.device_jobs)
        self._busy: Busy = {}
        self._busy_words = "not read: no Prometheus is set"
        self._keep_until = float("-inf")
        self._asking = asyncio.Lock()

    async def read_busy(self) -> None:
        """Bring up to date how busy cards are; where Prometheus fails, nothing is known of it."""
        if self._source is None:
            return
        async with self._asking:
            now, max_age = self._unix_clock(), self._settings.measured_max_age_seconds
            if now < self._keep_until:
                return
            nodes, found = dict(self._state.fleet.nodes), dict[str, dict[str, float]]()
            try:
                for metric in BUSY_METRICS:
                    answer = await self._source.ask(query_for(metric, max_age))
                    lines = map(line_of, answer.entries())
                    busy = await asyncio.to_thread(busy_of, lines, metric, nodes, self._jobs, oldest=now - max_age)
                    for name, cards in busy.items():
                        found[name] = cards | found.get(name, {})
                words = f"known of {sum(map(len, found.values()))} cards, mean of the last {max_age:g} s"
            except (PrometheusError, msgspec.MsgspecError, ValueError) as error:
                found, words = {}, f"not read: {error}"
            self._busy, self._busy_words = found, words
            self._keep_until = self._unix_clock() + self._settings.measured_every_seconds

    async def answer(self, only_node: str = "") -> bytes | None:
        """The page as JSON: of all nodes with cards, or of one. None where there is no such node."""
        state, slices, nodes = self._state, Slices(PAGE_SLICE_SECONDS), list[bytes]()
        names = [only_node] if only_node else sorted(state.fleet.nodes)
        for name in names:
            if name in state.fleet.nodes and (only_node or state.fleet.nodes[name].cards):
                nodes.append(wire.encode(self._node(name)))
            await slices.pause()
        if only_node and not nodes:
            return None
        rest = {
            "measured": measured_words(state.measured_cards, state.reading),
            "busy": self._busy_words,
            "waiting": {
                stage.value: len(state.pods.at(stage)) for stage in (Stage.WAITING, Stage.REFUSED, Stage.GATED)
            },
            "refused_pods": _waiting(list(state.pods.at(Stage.REFUSED))),
            "problems": dict(sorted(state.node_problems.items())[:_WAITING_SHOWN]),
        }
        return b'{"nodes":[%b],%b' % (b",".join(nodes), wire.encode(rest)[1:])

    def _node(self, name: str) -> dict[str, Any]:
        fleet = self._state.fleet
        node, row = fleet.nodes[name], fleet.row_of[name]
        uses, busy = self._state.reading.uses.get(name, {}), self._busy.get(name, {})
        used_by = {card_id: use.by_pod for card_id, use in uses.items()}
        ledger = self._state.ledger
        holders: list[Holder] = [*ledger.on_node(name), *ledger.claims.on_node(name)]
        pods = _pods_by_card(holders, [used_by.get(card.id, {}) for card in node.cards])
        return {
            "node": name,
            "sharing": node.sharing.value,
            "schedulable": node.schedulable,
            "cards": [
                {
                    "id": card.id,
                    "index": card.index,
                    "model": card.model,
                    "usable_mib": int(fleet.usable_mib[row, at]),
                    "declared_mib": int(fleet.held_mib[row, at]),
                    "used_mib": int(fleet.measured_mib[row, at]) if card.id in uses else None,
                    "foreign_mib": int(fleet.foreign_mib[row, at]),
                    "free_mib": int(fleet.free_mib[row, at]),
                    "busy_ratio": busy.get(card.id),
                    "pods": pods.get(at, []),
                }
                for at, card in enumerate(node.cards)
            ],
        }


def _pods_by_card(holdings: Sequence[Holder], used_by: Sequence[Mapping[str, int]]) -> dict[int, list[dict[str, Any]]]:
    """Who holds what, by position of the card; the largest shares first."""
    found: dict[int, list[dict[str, Any]]] = {}
    for holding in holdings:
        if not holding.counted:
            continue
        shares: dict[int, int] = {}
        for at, mib in zip(holding.placement.cards, holding.placement.share_mib, strict=True):
            shares[at] = shares.get(at, 0) + mib  # several slices of one card
        for at, mib in shares.items():
            pod = {
                "pod": holding.pod,
                "share_mib": mib,
                "used_mib": used_by[at].get(holding.pod),
                "state": holding.state.value if isinstance(holding, Holding) else "claimed",
            }
            found.setdefault(at, []).append(pod)
    for pods in found.values():
        pods.sort(key=lambda pod: (-pod["share_mib"], pod["pod"]))
    return found


def _waiting(entries: Sequence[PodEntry]) -> list[dict[str, Any]]:
    """The pods that wait refused, those that have waited longest first."""
    return [
        {"pod": entry.key, "priority": entry.facts.priority, "request": request_values(entry.request)}
        for entry in entries[:_WAITING_SHOWN]
    ]
