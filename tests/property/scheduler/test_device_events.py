"""Classes, slices, claims, nodes and pods in whatever order: the state is that of the last objects, and nothing is given twice."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from headroom import wire
from headroom.domain.dra.objects import DEVICE_CLASS, RESOURCE_CLAIM, RESOURCE_SLICE
from scheduler.cluster.state import ClusterState
from scheduler.ledger.holding import LedgerError
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.policies.registry import policy_by_name
from tests.fakes.devices import claim, device, device_class, resource_slice, result

GPU, VRAM = "nvidia.com/gpu", "headroom.dev/vram"
EXAMPLE = "gpu.example.com"
NODES = ("n1", "n2")


def node(name: str, cards: int | None, plugin: int) -> dict[str, Any]:
    listed = [{"id": f"GPU-{name}-{at}", "model": "A", "vram_mib": 81920} for at in range(cards or 0)]
    return {
        "metadata": {"name": name, "annotations": {} if cards is None else {"headroom.dev/cards": json.dumps(listed)}},
        "status": {
            "allocatable": {
                "cpu": "64",
                "memory": "512Gi",
                **({GPU: str(plugin)} if plugin and cards == plugin else {}),
            }
        },
    }


def slice_of(
    name: str, cards: int, generation: int, slices: int, policy: dict[str, Any] | None, taint: str
) -> dict[str, Any]:
    listed = [
        device(f"gpu-{at}", f"GPU-{name}-{at}", policy=policy, taint=taint if at == 0 else "") for at in range(cards)
    ]
    return resource_slice(name, listed, generation=generation, slices=slices)


def bare_slice(name: str, cards: int) -> dict[str, Any]:
    return resource_slice(name, [{"name": f"gpu-{at}"} for at in range(cards)], driver=EXAMPLE)


def pod(name: str, on: str, limits: dict[str, str], claims: list[str]) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {
            "schedulerName": "headroom", "nodeName": on, "containers": [{"name": "c", "resources": {"limits": limits}}],
            "resourceClaims": [{"name": each, "resourceClaimName": each} for each in claims],
        },
        "status": {"phase": "Running" if on else "Pending"},
    }  # fmt: skip


NODE = st.sampled_from(NODES)
PODS = st.sampled_from("pqr")
RESULTS = st.lists(
    st.builds(
        lambda at, on, driver, consumed: result(f"gpu-{at}", on, driver=driver, consumed=consumed),
        st.integers(0, 2), NODE, st.sampled_from(("gpu.nvidia.com", EXAMPLE, "nic.example.com")),
        st.sampled_from((None, {"memory": "20Gi"}, {"memory": "900Gi"}, {"memory": "lots"})),
    ),
    max_size=2,
)  # fmt: skip
POLICIES = st.sampled_from((None, None, {"default": "20Gi"}, {"default": "0"}))
OBJECTS = st.one_of(
    st.tuples(
        st.just("class"),
        st.builds(
            device_class, st.sampled_from(("a", "b")), st.sampled_from(("", GPU)), st.sampled_from(("gpu.nvidia.com", EXAMPLE)),
            st.sampled_from(("", "gpu")), st.sampled_from(("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")),
        ),
    ),
    st.tuples(st.just("node"), st.builds(node, NODE, st.sampled_from((None, 0, 1, 2)), st.integers(0, 2))),
    st.tuples(
        st.just("slice"),
        st.builds(slice_of, NODE, st.integers(0, 3), st.integers(1, 2), st.integers(1, 2), POLICIES, st.sampled_from(("", "NoSchedule"))),
    ),
    st.tuples(st.just("slice"), st.builds(bare_slice, NODE, st.integers(0, 2))),
    st.tuples(
        st.just("claim"),
        st.builds(
            lambda name, results, pods, on, extended: claim(
                name, results, pods=[(each, f"uid-{each}") for each in sorted(pods)], node=on, extended=extended and len(pods) == 1
            ),
            st.sampled_from("xyz"), st.one_of(st.none(), RESULTS), st.sets(PODS, max_size=2), st.sampled_from(("", *NODES)), st.booleans(),
        ),
    ),
    st.tuples(
        st.just("pod"),
        st.builds(
            pod, PODS, NODE, st.sampled_from(({}, {GPU: "1"}, {GPU: "2"}, {VRAM: "30Gi"})),
            st.lists(st.sampled_from("xyz"), max_size=2, unique=True),
        ),
    ),
)  # fmt: skip
STEPS = st.lists(st.tuples(OBJECTS, st.sampled_from(("put", "put", "put", "delete"))), max_size=40)
ORDER = {"class": 0, "slice": 1, "node": 2, "claim": 3, "pod": 4}
ASKED = st.sampled_from(({GPU: "1"}, {GPU: "2"}, {VRAM: "30Gi"}, {VRAM: "70Gi"}))


COUNTED = ("held_mib", "claimed", "plugin", "pinned", "slices_free")


def new_state() -> ClusterState:
    return ClusterState(
        policy_by_name("headroom"), SchedulerMetrics(CollectorRegistry()), pin_claimable=True, monotonic=lambda: 0.0
    )


def key_of(body: dict[str, Any]) -> str:
    meta = body["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else str(meta["name"])


def tell(state: ClusterState, kind: str, body: dict[str, Any], event: str) -> None:
    raw, key = json.dumps(body).encode(), key_of(body)
    if kind == "class":
        state.devices.on_class(event, key, DEVICE_CLASS.decode(raw))
        while state.devices.due:
            state.devices.work_off()
    elif kind == "slice":
        state.devices.on_slice(event, key, RESOURCE_SLICE.decode(raw))
    elif kind == "node":
        state.on_node(event, key, wire.NODE.decode(raw))
    elif kind == "claim":
        state.devices.on_claim(event, key, RESOURCE_CLAIM.decode(raw))
    else:
        state.on_pod(event, key, wire.POD.decode(raw))


def picture(state: ClusterState) -> dict[str, Any]:
    fleet = state.fleet
    return {
        name: (
            node.cards, node.problems, int(fleet.promised[row]),
            [getattr(fleet, array)[row, : len(node.cards)].tolist() for array in COUNTED],
        )
        for name, node in fleet.nodes.items()
        for row in (fleet.row_of[name],)
        if node.cards
    } | {"claims": state.devices.problems, "pods": state.ledger.problems}  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_the_state_is_that_of_the_last_objects(steps: list[tuple[tuple[str, dict[str, Any]], str]]) -> None:
    state, last = new_state(), dict[tuple[str, str], dict[str, Any]]()
    for (kind, body), action in steps:
        at = kind, key_of(body)
        if action == "delete":
            if at not in last:
                continue
            tell(state, kind, last.pop(at), wire.DELETED)
        else:
            tell(state, kind, body, wire.MODIFIED if at in last else wire.ADDED)
            last[at] = body
        assert state.ledger.check() + state.pods.check() == []
    fresh = new_state()
    for (kind, _), body in sorted(last.items(), key=lambda entry: ORDER[entry[0][0]]):
        tell(fresh, kind, body, wire.ADDED)
    assert picture(state) == picture(fresh)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.lists(ASKED, min_size=1, max_size=4))
def test_nothing_that_is_held_or_promised_is_given_again(
    steps: list[tuple[tuple[str, dict[str, Any]], str]], asked: list[dict[str, str]]
) -> None:
    """A pod that is placed leaves no card over-filled that was not before, and no more devices promised than there are."""
    state = new_state()
    for (kind, body), action in steps:
        if action == "put":
            tell(state, kind, body, wire.MODIFIED)
    fleet = state.fleet
    over = (fleet.held_mib > fleet.usable_mib).copy()
    for at, limits in enumerate(asked):
        entry, _ = state.pods.show(wire.POD.decode(json.dumps(pod(f"new{at}", "", limits, [])).encode()))
        assert entry is not None
        placement = state.placer.best(entry.request)
        if placement is None:
            continue
        row = fleet.row_of[placement.node]
        assert not (placement.devices == 0 and fleet.claimed[row, list(placement.cards)].any())
        try:
            state.pods.offer(entry, placement, 1.0)
        except LedgerError as error:
            raise AssertionError("what fits is refused by the ledger") from error
        assert ((fleet.held_mib > fleet.usable_mib) == over).all()
        assert placement.devices == 0 or fleet.devices_left(row) >= 0
        assert state.ledger.check() + state.pods.check() == []
