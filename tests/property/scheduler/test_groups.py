"""Whatever happens in whatever order, a group has all of its places or none, and no card is given twice.

The extender's own parts on a state that is fed by hand; bindings go to an API server that answers as it is told.
"""

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from headroom import wire
from headroom.daemon.guard import Guard
from headroom.kube.client import Unprocessable
from headroom.wire import ADDED, DELETED, MODIFIED
from scheduler.cluster.decisions import Decisions
from scheduler.cluster.effects import Effects
from scheduler.cluster.pod_entry import Stage
from scheduler.cluster.room.seating import Seating
from scheduler.cluster.state import ClusterState
from scheduler.ledger.holding import HoldingState
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.policies.registry import policy_by_name
from scheduler.settings import SchedulerSettings
from scheduler.verbs import protocol
from scheduler.verbs.bind import Binder, BindError
from scheduler.verbs.filter import Extender
from tests.fakes.extender import node, pod

NODES = ("n0", "n1", "n2")
SIZES = {"a": 2, "b": 4, "c": 3}
VRAM = ("20Gi", "40Gi", "70Gi")
HOLD_SECONDS = 60.0


class Server:
    """Answers bindings; the next one is refused if it shall be."""

    refuses = False

    async def request(self, *_: object, **__: object) -> bytes:
        if self.refuses:
            raise Unprocessable("refused", code=422)
        return b"{}"


class World:
    def __init__(self) -> None:
        self.now, self.count, self.version = 1000.0, 0, 0
        metrics = SchedulerMetrics(CollectorRegistry())
        self.failures: list[str] = []
        self.state = ClusterState(policy_by_name("bestfit"), metrics, monotonic=lambda: self.now)
        self.effects = Effects(Guard(self.failures.append))
        seating = Seating(self.state, hold_seconds=HOLD_SECONDS, monotonic=lambda: self.now)
        seating.listen(self.effects)
        self.seating, self.server = seating, Server()
        common = self.state, SchedulerSettings(port=1), Decisions(), self.effects, seating
        self.extender = Extender(*common, monotonic=lambda: self.now)
        state, options, decisions, effects, _ = common
        self.binder = Binder(
            state, self.server, options, decisions, effects, seating,  # type: ignore[arg-type]
            term=lambda: "t", monotonic=lambda: self.now,
        )  # fmt: skip
        self.pods: dict[str, dict[str, Any]] = {}
        self.offered: dict[str, str] = {}
        self.ran: set[str] = set()
        for name in NODES:
            self.node(name)

    def node(self, name: str, kind: str = ADDED) -> None:
        body = node(name, 80, 80)
        self.effects(self.state.on_node(kind, name, wire.NODE.decode(wire.encode(body))))

    def create(self, group: str, vram: str) -> None:
        self.count += 1
        self.version += 1
        body = pod(f"p{self.count}", vram=vram)
        body["metadata"] |= {"uid": f"p{self.count}", "resourceVersion": str(self.version)}
        if group in SIZES:
            said = {"headroom.dev/group": group, "headroom.dev/group-size": str(SIZES[group])}
            body["metadata"]["annotations"] = said
        self.pods[f"p{self.count}"] = body
        self.show(body, ADDED)

    def show(self, body: dict[str, Any], kind: str) -> None:
        shown = wire.POD.decode(wire.encode(body))
        self.effects(self.state.on_pod(kind, shown.key, shown))

    def filter(self, uid: str, nodes: list[str]) -> None:
        body = {"Pod": self.pods[uid], "Nodes": None, "NodeNames": nodes}
        answer = json.loads(self.extender.filter(protocol.EXTENDER_ARGS.decode(json.dumps(body).encode())).body)
        self.offered.pop(uid, None)
        if answer["NodeNames"]:
            (self.offered[uid],) = answer["NodeNames"]

    async def bind(self, uid: str, *, refused: bool) -> None:
        meta = self.pods[uid]["metadata"]
        self.server.refuses = refused
        args = protocol.BindingArgs(
            pod_name=meta["name"], pod_namespace="default", pod_uid=uid, node=self.offered.pop(uid)
        )
        try:
            await self.binder.bind(args)
        except BindError:
            return
        held = self.state.ledger.holdings[uid]
        assert held.assigned is not None
        body = self.pods[uid]
        body["spec"]["nodeName"] = held.placement.node
        body["metadata"].setdefault("annotations", {})["headroom.dev/assigned-cards"] = ",".join(held.assigned.cards)
        body["metadata"]["annotations"]["headroom.dev/assigned-vram-mib"] = str(held.assigned.share_mib[0])
        body["metadata"]["annotations"]["headroom.dev/assigned-mode"] = "pinned"
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.show(body, MODIFIED)

    def remove(self, uid: str) -> None:
        body = self.pods.pop(uid)
        self.offered.pop(uid, None)
        self.show(body, DELETED)

    def check(self) -> None:
        assert self.failures == []
        assert self.state.breaches() == []
        for record in self.state.groups.records.values():
            held = [self.state.ledger.holdings.get(uid) for uid in record.members]
            states = [one.state for one in held if one is not None]
            if set(states) & {HoldingState.BOUND, HoldingState.BINDING}:
                self.ran.add(record.words)  # from now on one more than it takes may be placed by itself
            elif states and record.words not in self.ran:
                assert len(states) >= SIZES[record.key[2]], f"{record.words} has {len(states)} places"
            for uid in record.seated:
                assert self.state.pods.entries[uid].stage in (Stage.NAMED, Stage.OFFERED, Stage.BINDING)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("create", "gang", "gang", "filter", "filter", "filter", "bind", "bind_fails", "late_bind", "remove", "wait",
                         "wait_long", "node_gone", "node_back")),
        st.integers(0, 63), st.sampled_from(("a", "b", "c", "", "b")), st.sampled_from(VRAM), st.integers(1, 20),
    ),
    min_size=10,
    max_size=60,
)  # fmt: skip


async def live(steps: list[tuple[str, int, str, str, int]]) -> None:
    world = World()
    for act, number, group, vram, some in steps:
        waiting = [uid for uid, body in world.pods.items() if "nodeName" not in body["spec"]]
        there = [name for name in NODES if name in world.state.nodes]
        if act == "create":
            world.create(group, vram)
        elif act == "gang" and len(waiting) < 12:
            for _ in range(SIZES.get(group, 1)):
                world.create(group, vram)
        elif act == "filter" and waiting:
            among = [name for at, name in enumerate(NODES) if (some > 7 or some & 2**at) and name in there]
            world.filter(waiting[number % len(waiting)], among)
        elif act in ("bind", "bind_fails") and world.offered:
            offered = sorted(world.offered)
            await world.bind(offered[number % len(offered)], refused=act == "bind_fails")
        elif act == "late_bind" and waiting and there:
            # Decided before the extender knew of the pod, or before what it had reserved ended.
            world.offered[(uid := waiting[number % len(waiting)])] = there[some % len(there)]
            await world.bind(uid, refused=False)
        elif act == "remove" and world.pods:
            world.remove(sorted(world.pods)[number % len(world.pods)])
        elif act in ("wait", "wait_long"):
            world.now += 5.0 if act == "wait" else HOLD_SECONDS + 1
            world.effects(world.state.pods.sweep(world.now))
            world.effects(world.seating.rested(world.now))
        elif act == "node_gone" and some == 1 and there:
            world.node(there[number % len(there)], DELETED)
        elif act == "node_back":
            for name in NODES:
                if name not in there:
                    world.node(name)
        world.check()


@given(STEPS)
@settings(max_examples=80, deadline=None)
def test_a_group_has_all_of_its_places_or_none(steps: list[tuple[str, int, str, str, int]]) -> None:
    asyncio.run(live(steps))
