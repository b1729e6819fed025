"""What must hold for any fleet, any pods and any policy."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headroom.domain.model import Allocation, Card, GpuNode, GpuRequest, Mode, Placement, Sharing
from scheduler.ledger.fleet import Fleet
from scheduler.placement import filtering, mixing
from scheduler.placement.placer import Placer, evaluate, hold
from scheduler.placement.policies.registry import policy_by_name
from scheduler.placement.profile import Profile
from scheduler.placement.trial import Trial

PLUGIN = "nvidia.com/gpu"
MODELS = ("L4", "A100")
SIZES = (1000, 2400)
DETERMINISTIC = (
    "headroom", "fgd", "bestfit", "gpupacking", "dotprod", "binpack-vram", "spread-vram", "binpack-slices", "spread-slices",
)  # fmt: skip


@st.composite
def nodes(draw: st.DrawFn) -> list[GpuNode]:
    made = []
    for at in range(draw(st.integers(1, 6))):
        slices = draw(st.sampled_from([1, 1, 3]))
        count = draw(st.integers(1, 4))
        made.append(
            GpuNode(
                name=f"n{at}",
                cards=tuple(
                    Card(str(card), card, draw(st.sampled_from(MODELS)), draw(st.sampled_from(SIZES)), slices=slices)
                    for card in range(count)
                ),
                sharing=Sharing.TIME_SLICING if slices > 1 else Sharing.EXCLUSIVE,
                allocation=draw(st.sampled_from(Allocation)),
                resource=PLUGIN,
                cpu_milli=draw(st.sampled_from([8_000, 64_000])),
                memory_mib=1_000_000,
            )
        )
    return made


@st.composite
def requests(draw: st.DrawFn) -> GpuRequest:
    mode = draw(st.sampled_from(Mode))
    size = draw(st.sampled_from(["vram", "milli", "whole"]))
    return GpuRequest(
        count=draw(st.sampled_from([1, 1, 1, 2, 4])),
        mode=mode,
        vram_mib=draw(st.sampled_from([100, 333, 500, 1000, 1500])) if size == "vram" else 0,
        milli=draw(st.sampled_from([190, 320, 470, 810, 1000])) if size == "milli" else 0,
        resource=PLUGIN if mode is Mode.SLICE else "",
        cpu_milli=draw(st.sampled_from([0, 1_000, 6_000])),
        models=draw(st.sampled_from([frozenset[str](), frozenset({"L4"}), frozenset(MODELS)])),
    )


def build(described: list[GpuNode]) -> Fleet:
    fleet = Fleet()
    for node in described:
        fleet.upsert_node(node)
    return fleet


def prepared(fleet: Fleet, policy: str, arrivals: list[GpuRequest]) -> Placer:
    placer = Placer(fleet, policy_by_name(policy), check_host=True)
    placer.replan(Profile.from_requests(arrivals))
    return placer


@pytest.mark.parametrize("policy", DETERMINISTIC)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(described=nodes(), arrivals=st.lists(requests(), min_size=1, max_size=15), data=st.data())
def test_the_order_of_nodes_does_not_matter(
    policy: str, described: list[GpuNode], arrivals: list[GpuRequest], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(described))
    first, second = (prepared(build(each), policy, arrivals) for each in (described, shuffled))
    for request in arrivals:
        placements = [placer.best(request) for placer in (first, second)]
        assert placements[0] == placements[1]
        for placer, placement in zip((first, second), placements, strict=True):
            if placement is not None:
                hold(placer.fleet, request, placement)


@pytest.mark.parametrize("policy", ["headroom", "fgd", "spread-vram"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(described=nodes(), arrivals=st.lists(requests(), min_size=1, max_size=30))
def test_a_pod_that_fits_is_never_refused_and_no_card_is_over_committed(
    policy: str, described: list[GpuNode], arrivals: list[GpuRequest]
) -> None:
    fleet = build(described)
    placer = prepared(fleet, policy, arrivals)
    for at, request in enumerate(arrivals):
        if at % 7 == 3:
            placer.replan(Profile.from_requests(arrivals))
        rows = np.arange(len(fleet.names))
        fitting = filtering.fit(fleet, request, rows, check_host=True).fits
        placement = placer.best(request)
        assert (placement is not None) == bool(fitting.any())
        assert [placer.refusal(request, row) is None for row in rows.tolist()] == fitting.tolist()
        if placement is None:
            continue
        assert len(placement.cards) == request.count
        if request.mode is Mode.PINNED:
            assert len(set(placement.cards)) == request.count
        hold(fleet, request, placement)
        assert (fleet.held_mib <= fleet.usable_mib).all()
        assert (fleet.plugin <= fleet.slices).all()
        assert (fleet.cpu_free_milli >= 0).all()


@pytest.mark.parametrize("policy", DETERMINISTIC)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(described=nodes(), arrivals=st.lists(requests(), min_size=2, max_size=20), data=st.data())
def test_standing_scores_equal_scores_from_scratch(
    policy: str, described: list[GpuNode], arrivals: list[GpuRequest], data: st.DataObject
) -> None:
    """After any sequence of pods that come and go, nodes cordoned and nodes lost."""
    fleet = build(described)
    placer = prepared(fleet, policy, arrivals)
    running: list[tuple[GpuRequest, Placement]] = []
    for request in arrivals:
        placement = placer.best(request)
        if placement is not None:
            hold(fleet, request, placement)
            running.append((request, placement))
        if len(running) > 0 and data.draw(st.booleans()):
            gone, where = running.pop(data.draw(st.integers(0, len(running) - 1)))
            if where.node in fleet.row_of:
                hold(fleet, gone, where, -1)
        event = data.draw(st.sampled_from(["none", "none", "none", "cordon", "lose", "join"]))
        name = data.draw(st.sampled_from([node.name for node in described]))
        if event == "cordon" and name in fleet.nodes:
            fleet.upsert_node(dataclasses.replace(fleet.nodes[name], schedulable=not fleet.nodes[name].schedulable))
        elif event == "lose":
            fleet.remove_node(name)
            running = [each for each in running if each[1].node != name]
        elif event == "join" and name not in fleet.nodes:
            fleet.upsert_node(next(node for node in described if node.name == name))
        probe = data.draw(st.sampled_from(arrivals))
        rows = np.arange(len(fleet.names))
        fit = filtering.fit(fleet, probe, rows, check_host=True)
        for row in rows.tolist():
            assert placer.fits(probe, row) == bool(fit.fits[row])
            if fit.fits[row]:
                alone = filtering.fit(fleet, probe, np.array([row]), check_host=True)
                key, _ = evaluate(fleet, placer.policy, probe, alone)
                key -= mixing.price(fleet, probe, alone.rows, devices_wanted=placer.devices_wanted)
                assert placer.score(probe, row) == int(key[0]) >> 32


@settings(max_examples=30, deadline=None)
@given(described=nodes(), request=requests(), limit=st.integers(0, 12))
def test_a_trial_says_how_many_can_really_be_placed(described: list[GpuNode], request: GpuRequest, limit: int) -> None:
    """s11: what a fit question counts is what then fits."""
    fleet = build(described)
    trial = Trial(fleet.copy(), request, policy_by_name("headroom"))
    while trial.result().fits < limit and trial.step():
        pass
    counted = trial.result()
    assert counted.fits == sum(counted.nodes.values()) <= limit
    placer = Placer(fleet, policy_by_name("bestfit"), check_host=True)
    if counted.fits < limit:
        assert sum(counted.reasons.values()) == len(described)
    if limit and counted.fits == 0:
        assert placer.best(request) is None
