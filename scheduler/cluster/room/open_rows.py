"""Which nodes are open to a waiting pod by selectors, affinity, taints and cordon, remembered per kind of pod."""

from typing import Final

import msgspec
import numpy as np

from headroom import wire
from scheduler.cluster.host_rules import host_feasible
from scheduler.cluster.state import ClusterState
from scheduler.ledger.arrays import IntArray
from scheduler.placement.row_cache import Columns, RowCaches

_MOST_BYTES: Final = 2**22  # a byte for each node and kind of pod
_SPEC: Final = msgspec.json.Decoder(wire.PodSpec)


class OpenRows:
    """Rows by what the pod says about nodes, kept up as rows change: a node's labels, taints and cordon are part of its row."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._open: RowCaches[bytes] = RowCaches(state.fleet, self._judge, (np.bool_,), most_bytes=_MOST_BYTES)

    def of(self, pod: wire.Pod) -> IntArray:
        """Rows of the nodes that are open to the pod."""
        (is_open,) = self._open.of(self.kind_of(pod))
        return np.flatnonzero(is_open)

    @staticmethod
    def kind_of(pod: wire.Pod) -> bytes:
        """All that a pod says about nodes: pods that say the same have the same open rows."""
        spec = pod.spec
        about_nodes = wire.PodSpec(
            node_name=spec.node_name,
            node_selector=spec.node_selector,
            affinity=spec.affinity,
            tolerations=spec.tolerations,
        )
        return msgspec.json.encode(about_nodes)

    def _judge(self, kind: bytes, rows: IntArray) -> Columns:
        pod, names, nodes = wire.Pod(spec=_SPEC.decode(kind)), self._state.fleet.names, self._state.nodes
        found = [(node := nodes.get(names[row])) is not None and host_feasible(pod, node) for row in rows.tolist()]
        return (np.array(found, np.bool_),)
