"""The preempt verb: keeps kube-scheduler from evicting pods where that would not give a pod its GPU memory.

kube-scheduler's own preemption makes room for CPU, host memory or devices, without a thought of GPU memory. It shows the extender
the victims that it has in mind for each node; nodes on which the pod would still not fit are taken off the list.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from headroom import names, wire
from headroom.daemon.slices import Slices
from headroom.domain.model import GpuRequest
from headroom.domain.request import request_of
from headroom.wire import Wire
from scheduler.cluster.state import ClusterState
from scheduler.placement.victims import fitting_without
from scheduler.verbs import protocol


class _MetaVictim(Wire):
    uid: str = msgspec.field(name="UID")


class _MetaVictims(Wire, rename="pascal"):
    pods: list[_MetaVictim] = msgspec.field(default_factory=list)
    num_pdb_violations: int = msgspec.field(name="NumPDBViolations", default=0)


class _Victims(Wire, rename="pascal"):
    pods: list[wire.Pod] = msgspec.field(default_factory=list)
    num_pdb_violations: int = msgspec.field(name="NumPDBViolations", default=0)


class PreemptionArgs(Wire, rename="pascal"):
    """Body of preempt: victims by node, as UIDs (`nodeCacheCapable`) or as whole pods."""

    pod: wire.Pod
    node_name_to_meta_victims: dict[str, _MetaVictims] | None = None
    node_name_to_victims: dict[str, _Victims] | None = None


_NODES_AT_ONCE: Final = 64

PREEMPTION_ARGS: Final = protocol.ExtenderDecoder(PreemptionArgs)


async def answer_preempt(state: ClusterState, args: PreemptionArgs) -> bytes:
    """The nodes on which the victims' end makes room, with the same victims. Raises RequestError."""
    request = request_of(args.pod, state.customs)
    proposals = [] if names.LABEL_PLACEHOLDER in args.pod.metadata.labels else _proposals(args)
    if request is not None and request.count > 0:
        roomy = await _roomy(state, {node: uids for node, uids, _ in proposals}, request)
        proposals = [proposal for proposal in proposals if proposal[0] in roomy]
    kept = {
        node: {"Pods": [{"UID": uid} for uid in sorted(uids)], "NumPDBViolations": violations}
        for node, uids, violations in proposals
    }
    return wire.encode({"NodeNameToMetaVictims": kept})


async def _roomy(state: ClusterState, victims: Mapping[str, frozenset[str]], request: GpuRequest) -> set[str]:
    """Nodes on which the request fits without their victims and without pods that are leaving anyway."""
    found: set[str] = set()
    trial, nodes, slices = state.fleet.copy(), list(victims), Slices()
    for start in range(0, len(nodes), _NODES_AT_ONCE):
        removed = {
            row: [pod for pod in state.occupants(row) if pod.leaving or pod.uid in victims[node]]
            for node in nodes[start : start + _NODES_AT_ONCE]
            if (row := trial.row_of.get(node)) is not None and state.fleet.row_of.get(node) == row
        }
        found.update(trial.names[row] for row in fitting_without(trial, removed, request))
        await slices.pause()
    return found


def _proposals(args: PreemptionArgs) -> list[tuple[str, frozenset[str], int]]:
    """Node, UIDs of its victims, and how many budgets that breaks; kube-scheduler takes no node without victims back."""
    meta = [
        (node, frozenset(pod.uid for pod in victims.pods), victims.num_pdb_violations)
        for node, victims in (args.node_name_to_meta_victims or {}).items()
    ]
    whole = [
        (node, frozenset(pod.metadata.uid for pod in victims.pods), victims.num_pdb_violations)
        for node, victims in (args.node_name_to_victims or {}).items()
    ]
    return [proposal for proposal in meta + whole if proposal[1]]
