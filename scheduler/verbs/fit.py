"""`/v1/fit`: how many more pods like one fit, by everything that Headroom can judge; what it cannot, the answer names."""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from headroom import wire
from headroom.daemon.slices import PAGE_SLICE_SECONDS, Slices
from headroom.domain.groups import group_of
from headroom.domain.labels.topology import words_of
from headroom.domain.model import GpuRequest, Placement
from headroom.kube.client import KubeClient
from headroom.wire import Wire, WireError
from scheduler.cluster.host_rules import beyond_judgement, host_feasible, keeps_itself_apart, kept_apart, selector_text
from scheduler.cluster.room.node_domains import NodeDomains
from scheduler.cluster.room.open_rows import OpenRows
from scheduler.cluster.state import ClusterState
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.holding import is_finished
from scheduler.placement.quota import Budget
from scheduler.placement.trial import KEPT_APART, Trial
from scheduler.verbs.coming_first import seat, those_before
from scheduler.verbs.explain import KEPT

_MOST_PODS_ASKED: Final = 2000
_OTHERS_RULES: Final = "running pods' anti-affinity other than by host and named namespaces"
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # it becomes part of a path
_PODS_AT_ONCE: Final = 1  # a third of a millisecond at 5,000 nodes: filter calls are answered in between


class FitQuestion(Wire):
    """Body of `/v1/fit`: a pod, or the template of one, and how many more of it are of interest."""

    pod: wire.Pod
    limit: int = 100
    own_waiting: bool = False
    """Pods of the same template that wait already are part of the count, instead of coming first."""


@dataclass(slots=True)
class FitPage:
    """Answers fit questions from the state; pods that others must be kept apart from are listed at the API server."""

    state: ClusterState
    kube: KubeClient
    _open_rows: OpenRows = field(init=False)
    _domains: NodeDomains = field(init=False)

    def __post_init__(self) -> None:
        self._open_rows = OpenRows(self.state)
        self._domains = NodeDomains(self.state)

    async def answer(self, question: FitQuestion, request: GpuRequest) -> dict[str, Any]:
        """How many more fit by all that is judged here, once the pods that wait already have their places.

        Raises KubeError, WireError.
        """
        pod, state = question.pod, self.state
        avoided = await self._hosts_to_avoid(pod)
        kept_off, unsure = await self._kept_off(pod)
        namespace = pod.metadata.namespace or "default"
        budget = state.quotas.budget(namespace)

        def admits(placement: Placement) -> str | None:
            if budget is None:
                return None
            shares = placement.shares, placement.held_mib
            if (words := budget.refusal(*shares)) is None:
                budget.take(*shares)
            return words

        slices = Slices(PAGE_SLICE_SECONDS)
        pods_left = self._pods_left()
        await slices.pause()
        trial = Trial(
            state.fleet.copy(), request, state.placer.policy, one_per_node=keeps_itself_apart(pod), admits=admits,
            pods_left=pods_left, devices_wanted=state.placer.devices_wanted,
        )  # fmt: skip
        await slices.pause()
        first = those_before(state, pod, request, own_too=not question.own_waiting)
        await slices.pause()
        seated = await seat(state, self._open_rows, trial, first, {namespace: budget})
        await self._close(trial, pod, avoided | kept_off)
        left, enough, groups, size = max(0, min(question.limit, _MOST_PODS_ASKED)), False, 0, self._group_size(pod)
        for rows in self._domains_of(trial, pod, size):
            before = trial.placed
            enough = await _count(trial, budget, request, left - before, rows)
            groups += (trial.placed - before) // size
        found = trial.result()
        answer: dict[str, Any] = {"fits": groups * size, "nodes": found.nodes, "reasons": found.reasons}
        if size > 1:
            answer |= {"group_size": size, "groups": groups}
        if enough:
            answer["at_least"] = True  # the counting ended, not the room
        if seated.pods:
            answer["waiting_first"] = seated.pods
        not_judged = beyond_judgement(pod) + ([_OTHERS_RULES] if unsure else []) + seated.not_judged
        return answer | {"not_judged": not_judged} if not_judged else answer

    def _domains_of(self, trial: Trial, pod: wire.Pod, size: int) -> list[IntArray | None]:
        """The rows to fill one after another; None for all. Raises GroupError.

        Where a group must be in one domain, those of each domain that may have room for so many, the largest first.
        """
        group = group_of(pod)
        if group is None or not group.topology:
            return [None]
        codes = self._domains.required(group.topology)[: len(trial.fleet.names)]
        for row in np.flatnonzero(trial.fleet.alive[: len(codes)] & (codes < 0)).tolist():
            trial.close(row, f"its group must be in {words_of(group.topology)}, and the node has no such label")
        domains = [np.flatnonzero(codes == domain) for domain in np.unique(codes[codes >= 0]).tolist()]
        with_room = [(room, rows) for rows in domains if (room := trial.room(rows)) >= size]
        return [rows for _, rows in sorted(with_room, key=lambda one: -one[0])]

    def _group_size(self, pod: wire.Pod) -> int:
        """How many pods like this one come together: fewer are of no use. 1 where that is not known from the pod. Raises GroupError."""
        group = group_of(pod)
        if group is None:
            return 1
        record = self.state.groups.records.get(group.key)
        number = group.min_count if record is None else record.number()
        return number if isinstance(number, int) else 1

    async def _close(self, trial: Trial, pod: wire.Pod, apart: set[str]) -> None:
        """Take the nodes out of the question that are not open to the pod."""
        kept, slices = self.state.pods.kept.keepers, Slices(PAGE_SLICE_SECONDS)
        for name, row in trial.fleet.row_of.items():
            node, keeper = self.state.nodes.get(name), kept.get(name)
            if node is None or not host_feasible(pod, node):
                trial.close(row, "node selector, affinity or taint")
            elif name in apart:
                trial.close(row, KEPT_APART)
            elif keeper is not None and keeper.facts.priority >= pod.spec.priority:
                trial.close(row, KEPT)
            await slices.pause()

    async def _kept_off(self, pod: wire.Pod) -> tuple[set[str], bool]:
        """Nodes with bound pods that this one must not join by what those say; and whether some say what cannot be judged here."""
        found, unsure, slices = set[str](), False, Slices(PAGE_SLICE_SECONDS)
        for nodes, more in self.state.news.repelling.against(pod):
            found |= nodes
            unsure = unsure or more
            await slices.pause()
        return found, unsure

    def _pods_left(self) -> dict[str, int]:
        """How many more pods each node takes by its allocatable `pods`; nodes that do not say are not in it."""
        left = {}
        for name in self.state.fleet.row_of:
            node = self.state.nodes.get(name)
            most = node.status.allocatable.get("pods", "") if node is not None else ""
            if str(most).isdecimal():
                left[name] = int(most) - len(self.state.ledger.on_node(name))
        return left

    async def _hosts_to_avoid(self, pod: wire.Pod) -> set[str]:
        """Nodes with pods that this one must not share a host with."""
        found: set[str] = set()
        for term in kept_apart(pod):
            if term.label_selector is None:  # no pod at all
                continue
            for namespace in term.namespaces or (pod.metadata.namespace or "default",):
                if not _NAMESPACE.fullmatch(namespace):
                    raise WireError(f"{namespace[:63]!r} is not the name of a namespace")
                query = [("labelSelector", selector_text(term.label_selector))]
                raw = await self.kube.request("GET", f"/api/v1/namespaces/{namespace}/pods", query=query)
                found.update(
                    other.spec.node_name for other in wire.POD_LIST.decode(raw).items if not is_finished(other)
                )
        return found - {""}


async def _count(trial: Trial, budget: Budget | None, request: GpuRequest, limit: int, rows: IntArray | None) -> bool:
    """Place up to so many, on some rows or (None) on all; returns whether more would fit on any."""
    for number in range(limit):
        if budget is not None:
            _narrow(trial, budget, request)
        if not trial.step(rows):
            return False
        if number % _PODS_AT_ONCE == _PODS_AT_ONCE - 1:
            await asyncio.sleep(0)
    return (budget is None or budget.refusal_of(request) is None) and not trial.exhausted


def _narrow(trial: Trial, budget: Budget, request: GpuRequest) -> None:
    """Close the nodes whose cards are larger than what is left of the quota."""
    within = budget.rows(trial.fleet, request)
    if within is not None:
        for row in np.flatnonzero(trial.fleet.alive & ~within).tolist():
            trial.close(row, budget.vram_words)
