"""The preempt verb: keeps kube-scheduler from evicting pods where that would not give a pod its GPU memory.

kube-scheduler's own preemption makes room for CPU, host memory or devices, without a thought of GPU memory. It shows the extender
the victims that it has in mind for each node; nodes on which the pod would still not fit are taken off the list.
"""

from typing import Any, Final

import msgspec

from headroom import wire
from headroom.domain.request import request_of
from headroom.wire import Wire
from scheduler.cluster.state import ClusterState
from scheduler.placement.victims import fits_without
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


PREEMPTION_ARGS: Final = protocol.ExtenderDecoder(PreemptionArgs)


def answer_preempt(state: ClusterState, args: PreemptionArgs) -> bytes:
    """The nodes on which the victims' end makes room, with the same victims. Raises RequestError."""
    request = request_of(args.pod, state.customs)
    kept: dict[str, Any] = {}
    for node, uids, violations in _proposals(args):
        row = state.fleet.row_of.get(node)
        if request is not None and request.count > 0:
            if row is None:
                continue
            removed = [pod for pod in state.occupants(row) if pod.leaving or pod.uid in uids]
            if not fits_without(state.fleet, row, removed, request):
                continue
        kept[node] = {"Pods": [{"UID": uid} for uid in sorted(uids)], "NumPDBViolations": violations}
    return wire.encode({"NodeNameToMetaVictims": kept})


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
