"""Which nodes are open to a waiting pod by selectors, affinity and taints, remembered per kind of pod."""

from collections import OrderedDict
from typing import Final

import msgspec
import numpy as np

from headroom import wire
from scheduler.cluster.host_rules import host_feasible
from scheduler.cluster.state import ClusterState
from scheduler.ledger.fleet import IntArray

_KINDS_KEPT: Final = 256


class OpenRows:
    """Rows by what the pod says about nodes; computed anew after a node's labels, taints or cordon changed."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._version = -1
        self._rows: OrderedDict[bytes, IntArray] = OrderedDict()

    def of(self, pod: wire.Pod) -> IntArray:
        """Rows of the nodes that are open to the pod."""
        state = self._state
        if self._version != state.nodes_version:
            self._rows.clear()
            self._version = state.nodes_version
        spec = pod.spec
        key = msgspec.json.encode((spec.node_selector, spec.affinity, spec.tolerations))
        rows = self._rows.get(key)
        if rows is None:
            fleet = state.fleet
            rows = np.array(
                [row for name, row in fleet.row_of.items() if host_feasible(pod, state.nodes[name])], np.int64
            )
            self._rows[key] = rows
            if len(self._rows) > _KINDS_KEPT:
                self._rows.popitem(last=False)
        return rows
