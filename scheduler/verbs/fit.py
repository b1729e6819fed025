"""`/v1/fit`: how many more pods like one fit, by everything that Headroom can judge; what it cannot, the answer names."""

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from headroom import wire
from headroom.domain.model import GpuRequest, Placement
from headroom.kube.client import KubeClient
from headroom.wire import Wire, WireError
from scheduler.cluster.host_rules import beyond_judgement, host_feasible, keeps_itself_apart, kept_apart, selector_text
from scheduler.cluster.state import ClusterState
from scheduler.ledger.holding import is_finished
from scheduler.placement.quota import Budget
from scheduler.placement.trial import KEPT_APART, Trial

_MOST_PODS_ASKED: Final = 2000
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # it becomes part of a path
_PODS_AT_ONCE: Final = 1  # a third of a millisecond at 5,000 nodes: filter calls are answered in between


class FitQuestion(Wire):
    """Body of `/v1/fit`: a pod, or the template of one, and how many more of it are of interest."""

    pod: wire.Pod
    limit: int = 100


@dataclass(slots=True)
class FitPage:
    """Answers fit questions from the state; pods that others must be kept apart from are listed at the API server."""

    state: ClusterState
    kube: KubeClient

    async def answer(self, question: FitQuestion, request: GpuRequest) -> dict[str, Any]:
        """How many more fit by cards, CPU, memory, selectors, taints and anti-affinity on one host. Raises KubeError, WireError."""
        pod, state = question.pod, self.state
        avoided = await self._hosts_to_avoid(pod)
        budget = state.quotas.budget(pod.metadata.namespace or "default")

        def admits(placement: Placement) -> str | None:
            if budget is None:
                return None
            shares = placement.shares, placement.held_mib
            if (words := budget.refusal(*shares)) is None:
                budget.take(*shares)
            return words

        trial = Trial(
            state.fleet.copy(), request, state.placer.policy, one_per_node=keeps_itself_apart(pod), admits=admits,
            pods_left=self._pods_left(),
        )  # fmt: skip
        for name, row in trial.fleet.row_of.items():
            if not host_feasible(pod, state.nodes[name]):
                trial.close(row, "node selector, affinity or taint")
            elif name in avoided:
                trial.close(row, KEPT_APART)
        limit, enough = max(0, min(question.limit, _MOST_PODS_ASKED)), False
        for number in range(limit):
            if budget is not None:
                _narrow(trial, budget, request)
            if not trial.step():
                break
            if number % _PODS_AT_ONCE == _PODS_AT_ONCE - 1:
                await asyncio.sleep(0)
        else:
            enough = (budget is None or budget.refusal_of(request) is None) and not trial.exhausted
        found = trial.result()
        answer = {"fits": found.fits, "nodes": found.nodes, "reasons": found.reasons}
        if enough:
            answer["at_least"] = True  # the counting ended, not the room
        not_judged = beyond_judgement(pod)
        return answer | {"not_judged": not_judged} if not_judged else answer

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


def _narrow(trial: Trial, budget: Budget, request: GpuRequest) -> None:
    """Close the nodes whose cards are larger than what is left of the quota."""
    within = budget.rows(trial.fleet, request)
    if within is not None:
        for row in np.flatnonzero(trial.fleet.alive & ~within).tolist():
            trial.close(row, budget.vram_words)
