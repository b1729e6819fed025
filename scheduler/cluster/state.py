"""What the extender knows of the cluster: fed by list and watch, changed by its own decisions, never by waiting.

The ledger is the only owner of who holds what, `pods` of how far the placing of each pod has come. Everything here runs on one
event loop, in the order of the events, so nothing needs a lock. A method that changes something returns what it changed.
"""

from collections.abc import Callable, Iterator
from typing import Any

from headroom import names, wire
from headroom.daemon.logs import get_logger
from headroom.domain.dialects.customs import Customs
from headroom.domain.model import IDLE_MIB, GpuNode, GpuRequest
from headroom.domain.node_cards import InventoryError, node_of, without_cards
from headroom.wire import DELETED
from scheduler.cluster.changes import Changes, PodDisagrees
from scheduler.cluster.customs import CustomsLearner
from scheduler.cluster.measured import MeasuredVram
from scheduler.cluster.news.devices import DeviceNews
from scheduler.cluster.news.pods import PodNews
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.pods.groups import GroupBook
from scheduler.cluster.pods.records import Pods
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.ledger import Holding, HoldingState, Ledger
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.placer import Placer
from scheduler.placement.quota import Quotas
from scheduler.placement.scoring import Policy
from scheduler.placement.victims import Occupant


class ClusterState:
    """Nodes, pods, ledger and fleet as of the last event.

    `monotonic` is the clock of reservations; `unix_clock` tells whether what was measured is older than a pod's end.
    """

    def __init__(
        self,
        policy: Policy,
        metrics: SchedulerMetrics,
        *,
        scheduler_names: tuple[str, ...] = (names.SCHEDULER_NAME,),
        idle_mib: int = IDLE_MIB,
        customs: CustomsLearner | None = None,
        resource_claims: bool = True,
        pin_claimable: bool = False,
        monotonic: Callable[[], float],
        unix_clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.fleet = Fleet(idle_mib=idle_mib)
        self.ledger = Ledger(self.fleet, unix_clock=unix_clock)
        self.ledger.claims.followed = resource_claims
        self.placer = Placer(self.fleet, policy)

        def observe(request: GpuRequest) -> None:
            self.placer.observe(request, monotonic())

        self.quotas = Quotas(self.ledger)
        self.pods = Pods(
            self.ledger,
            metrics,
            quotas=self.quotas,
            scheduler_names=scheduler_names,
            observe=observe,
            monotonic=monotonic,
        )
        self.groups = GroupBook()
        self.news = PodNews(self.pods, self.ledger, metrics, self.groups, observe=observe)
        self.devices = DeviceNews(self.ledger, self.pods, self.news, metrics, describe=self._describe_again)
        self._pin_claimable = pin_claimable
        self.nodes: dict[str, wire.Node] = {}
        self.node_problems: dict[str, str] = {}
        self.measured_cards: int | None = None
        """Cards whose measured use is fresh; None where nothing is measured."""
        self.reading = MeasuredVram()
        """What was measured last."""
        self._metrics = metrics
        self._log = get_logger(__name__)
        self._learner = CustomsLearner() if customs is None else customs
        self._take_on_customs()

    # Events of the API server, and readings

    def on_pod(self, kind: str, key: str, pod: wire.Pod) -> Changes:
        """Apply an event of the pod watch."""
        self._metrics.events_read.labels("pod").inc()
        return self.news.on_event(kind, key, pod)

    def on_node(self, kind: str, name: str, node: wire.Node) -> Changes:
        """Apply an event of the node watch."""
        self._metrics.events_read.labels("node").inc()
        self.node_problems.pop(name, None)
        changed = self._learner.learn(name, None if kind == DELETED else node)
        changes = self._take_on_customs() if changed else []
        if kind == DELETED:
            self.nodes.pop(name, None)
            return changes + self.pods.ended_with_node(self.ledger.forget_node(name))
        known = self.nodes.get(name)
        self.nodes[name] = node
        if known is not None and known.spec != node.spec and (row := self.fleet.row_of.get(name)) is not None:
            self.fleet.touch(row)  # its taints are read by who looks for open nodes
        return changes + self._take_in(name, node)

    def _describe_again(self, name: str) -> Changes:
        """Describe a node anew: its ResourceSlices have changed."""
        node = self.nodes.get(name)
        self.node_problems.pop(name, None)
        return [] if node is None else self._take_in(name, node)

    def _take_in(self, name: str, node: wire.Node) -> Changes:
        gpu_node = self._described(name, node)
        if gpu_node is None or (not gpu_node.cards and name not in self.fleet.nodes):
            return []
        if gpu_node == self.fleet.nodes.get(name):
            return []
        changes = self.pods.ended_with_node(self.ledger.apply_node(gpu_node))
        self.ledger.read(name, self.reading.of_node(gpu_node))
        return [*changes, self.pods.freed(name, seen_by_scheduler=True)]

    @property
    def customs(self) -> Customs:
        """What the meaning of a pod depends on besides the pod."""
        return self._learner.customs

    def _take_on_customs(self) -> Changes:
        self.ledger.customs = self.customs
        changes, problems = self.pods.read_anew(self.customs)
        self.news.problems |= problems
        return changes

    def _described(self, name: str, node: wire.Node) -> GpuNode | None:
        try:
            gpu_node = node_of(node, self.devices.of_node(name), pin_claimable=self._pin_claimable)
        except InventoryError as error:
            self.node_problems[name] = f"{error.field}: {error.reason}"
            self._metrics.objects_refused.labels("node").inc()
            self._log.warning("node_not_understood", node=name, error=str(error))
        else:
            if gpu_node.problems:
                self.node_problems[name] = "; ".join(gpu_node.problems)
            return gpu_node
        try:
            return without_cards(node)
        except InventoryError:
            return None

    def on_namespace(self, kind: str, name: str, namespace: wire.Namespace) -> Changes:
        """Apply an event of the watch on namespaces, of which their quotas matter."""
        if not self.quotas.on_event(kind, name, namespace) or not self.fleet.nodes:
            return []
        # Pods that were refused for the old one are tried again; any node will do to tell of it.
        return [self.pods.freed(next(iter(self.fleet.nodes)), seen_by_scheduler=False)]

    def set_measured(self, name: str, reading: MeasuredVram) -> Changes:
        """Take in what a node's cards were measured to use."""
        node = self.fleet.nodes.get(name)
        if node is None:
            return []
        row = self.fleet.row_of[name]
        before = self.fleet.free_mib[row].copy()
        more = self.ledger.read(name, reading.of_node(node)) and (self.fleet.free_mib[row] > before).any()
        return [self.pods.freed(name, seen_by_scheduler=False)] if more else []

    # Questions

    def holding(self, uid: str) -> Holding | None:
        """What the pod holds or has reserved."""
        return self.ledger.holdings.get(uid)

    def bound_node(self, uid: str) -> str | None:
        """The node that the pod is known to be bound to."""
        holding = self.ledger.holdings.get(uid)
        return holding.placement.node if holding is not None and holding.state is HoldingState.BOUND else None

    def disagreements(self) -> list[PodDisagrees]:
        """Bound pods whose annotations cannot be read, or are not what they ask for."""
        return [
            PodDisagrees(self.ledger.holdings[uid].pod, uid, problem) for uid, problem in self.ledger.problems.items()
        ]

    def outranks_any(self, entry: PodEntry) -> bool:
        """Whether some pod that holds cards must give way to this one, or is leaving anyway."""
        priority = entry.facts.priority
        return bool(self.pods.leaving) or any(other < priority for other in self.ledger.priorities)

    def occupants(self, row: int) -> list[Occupant]:
        """Bound pods that hold cards of a row."""
        found = []
        for held in self.ledger.on_node(self.fleet.names[row]):
            if held.state is HoldingState.BOUND and held.placement.cards:
                namespace, name = held.pod.split("/", 1)
                leaving = held.uid in self.pods.leaving
                found.append(
                    Occupant(held.uid, namespace, name, held.priority, held.placement, leaving, held.excess_mib)
                )
        return found

    def reservations(self, now: float) -> list[dict[str, Any]]:
        """Placements that wait for their binding, as plain values; None for the time left while the binding is under way."""
        return [
            {
                "pod": held.pod,
                "node": held.placement.node,
                "cards": held.placement.cards,
                "seconds_left": held.expires_at - now if held.state is HoldingState.RESERVED else None,
            }
            for held in self.ledger.reservations()
        ]

    def breaches(self) -> list[str]:
        """Cards on which more is held than there is, and disagreements within the ledger and between it and the pods."""
        return [breach for found in self.checks() for breach in found]

    def checks(self) -> Iterator[list[str]]:
        """`breaches` in small steps, between which the state may change."""
        yield [f"over-committed: {entry}" for entry in self.ledger.overcommitted()]
        yield from self.pods.checks()
        yield from self.ledger.checks()

    def figures(self) -> dict[str, float]:
        """Counts for the metrics page."""
        reserved = len(self.ledger.reservations())
        return {
            "reservations": reserved,
            "bound_pods": len(self.ledger.holdings) - reserved,
            "waiting_pods": len(self.pods.entries) - len(self.pods.at(Stage.BOUND)),
            "refused_pods": len(self.pods.at(Stage.REFUSED)),
            "kept_nodes": len(self.pods.kept.keepers),
            "nodes": len(self.fleet.nodes),
            "nodes_not_understood": len(self.node_problems),
            "namespaces_not_understood": len(self.quotas.problems()),
            "pods_in_disagreement": len(self.ledger.problems),
            "pods_under_way": len(self.ledger.unsettled),
            "pods_trusted": self.ledger.trusted,
            "resource_claims": len(self.ledger.claims.holdings),
            "resource_claims_in_disagreement": len(self.devices.problems),
            "over_committed_cards": int((self.fleet.held_mib > self.fleet.usable_mib).sum()),
        }
