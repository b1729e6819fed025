"""The policies' formulas against figures worked out by hand."""

import dataclasses
import math
import sys
import threading

import numpy as np
import pytest

from headroom.domain.model import Card, GpuNode, GpuRequest
from scheduler.ledger.fleet import Fleet
from scheduler.placement.placer import Placer, hold
from scheduler.placement.policies.fgd import Fgd
from scheduler.placement.policies.registry import POLICIES, PolicyError, policy_by_name
from scheduler.placement.policies.simple import GpuClustering
from scheduler.placement.profile import LearnedProfile, Profile, size_of

HALF = GpuRequest(1, milli=500, cpu_milli=4_000)
WHOLE = GpuRequest(1, milli=1000, cpu_milli=8_000)
FOUR = GpuRequest(4, milli=1000, cpu_milli=32_000)
NO_GPU = GpuRequest(0, cpu_milli=2_000)


def fleet_of(*shapes: tuple[int, int]) -> Fleet:
    """Nodes a, b, c ... of (cards, cores), each card of 1,000 units."""
    fleet = Fleet()
    for at, (cards, cores) in enumerate(shapes):
        described = tuple(Card(str(index), index, "T4", 1000) for index in range(cards))
        fleet.upsert_node(
            GpuNode(chr(ord("a") + at) if at < 26 else f"z{at}", described, cpu_milli=cores * 1000, memory_mib=10_000)
        )
    return fleet


def use(fleet: Fleet, row: int, **by_card: int) -> None:
    for card, units in by_card.items():
        fleet.take(row, [int(card[1:])], [units], plugin=False)


class TestFragmentation:
    """F of a node: per typical pod all idle units if it cannot run there, else the idle units on cards too small for it."""

    def test_by_hand(self) -> None:
        fleet = fleet_of((2, 16))
        use(fleet, 0, c0=600)  # 400 and 1,000 idle
        policy = Fgd()
        policy.swap(Fgd.solve(Profile.of({HALF: 0.4, WHOLE: 0.3, FOUR: 0.2, NO_GPU: 0.1})))
        # half: fits on the second card, 400 wasted; whole: the same; four cards and no card at all: all 1,400 wasted
        expected = 0.4 * 400 + 0.3 * 400 + 0.2 * 1400 + 0.1 * 1400
        assert policy.fragmentation(fleet, np.array([0]))[0] == pytest.approx(expected)

    def test_a_node_without_cpu_for_a_pod_is_all_fragment_to_it(self) -> None:
        fleet = fleet_of((2, 7))
        policy = Fgd()
        policy.swap(Fgd.solve(Profile.of({HALF: 1.0, WHOLE: 1.0})))
        assert policy.fragmentation(fleet, np.array([0]))[0] == pytest.approx(0.5 * 2000)

    def test_typical_pods_are_the_most_frequent_up_to_95_percent(self) -> None:
        profile = Profile.from_requests([HALF] * 90 + [WHOLE] * 6 + [FOUR] * 4)
        assert Fgd.solve(profile).requests == (HALF, WHOLE)
        assert Fgd.solve(profile).share.tolist() == pytest.approx([90 / 96, 6 / 96])

    def test_the_score_is_the_sigmoid_of_the_drop_in_fragmentation(self) -> None:
        fleet = fleet_of((1, 64))
        policy = Fgd()
        policy.swap(Fgd.solve(Profile.of({WHOLE: 1.0})))
        # 500 of an idle card: before nothing is fragment, afterwards the other 500 are
        assert Placer(fleet, policy).score(HALF, 0) == int(100 / (1 + math.exp(0.5)))


def test_best_fit_leaves_least_cpu_and_gpu() -> None:
    fleet = fleet_of((8, 96), (2, 32))
    placer = Placer(fleet, policy_by_name("bestfit"))
    # (96-8)/128 and 7/8 of the scale are left on a; (32-8)/128 and 1/8 on b
    assert placer.score(WHOLE, 0) == int(100 * (1 - (88 / 128 + 7 / 8) / 2))
    assert placer.score(WHOLE, 1) == int(100 * (1 - (24 / 128 + 1 / 8) / 2))


def test_dot_product_prefers_what_is_free_and_asked_to_differ() -> None:
    fleet = fleet_of((8, 96), (2, 128))
    placer = Placer(fleet, policy_by_name("dotprod"))
    assert placer.score(WHOLE, 0) == int(100 * (1 - (96 / 128 * 8 / 128 + 8 / 8 * 1 / 8) / 2))
    assert placer.score(WHOLE, 1) == int(100 * (1 - (1 * 8 / 128 + 2 / 8 * 1 / 8) / 2))


def test_packing_takes_used_cards_then_used_nodes_then_idle_nodes() -> None:
    fleet = fleet_of((4, 64), (4, 64), (4, 64))
    use(fleet, 0, c2=400)
    use(fleet, 1, c0=800)
    placer = Placer(fleet, policy_by_name("gpupacking"))
    assert [placer.score(HALF, row) for row in range(3)] == [100 - 60 // 10, 50 - 1, 33 - 4]
    placement = placer.best(HALF)
    assert placement is not None
    assert (placement.node, placement.cards) == ("a", (2,))


def test_clustering_goes_to_pods_of_the_same_shape() -> None:
    fleet = fleet_of((4, 64), (4, 64), (4, 64), (4, 64))
    policy = GpuClustering()
    placer = Placer(fleet, policy)
    for row, request in ((0, HALF), (1, HALF), (1, WHOLE), (2, WHOLE)):
        placement = placer.placement_at(request, row)
        policy.note(row, request, 1)
        hold(fleet, request, placement)
    free = [7500, 6500, 7000, 8000]  # of 8,000: the nodes have four cards only, the scale is eight
    free = [units - 4000 for units in free]
    bands = [75, 50, 0, 25]
    assert [placer.score(HALF, row) for row in range(4)] == [
        band + 25 * (8000 - left) // 8000 for band, left in zip(bands, free, strict=True)
    ]


@pytest.mark.parametrize(
    ("policy", "favourite"), [("binpack-vram", "a"), ("spread-vram", "b"), ("binpack-slices", "a")]
)
def test_packing_and_spreading(policy: str, favourite: str) -> None:
    fleet = fleet_of((2, 64), (2, 64))
    use(fleet, 0, c1=300)
    placement = Placer(fleet, policy_by_name(policy)).best(HALF)
    assert placement is not None
    assert placement.node == favourite
    assert placement.cards == (
        (1,) if policy == "binpack-vram" else (0,) if policy == "spread-vram" else placement.cards
    )


def test_random_draws_follow_the_generator_only() -> None:
    def draws(seed: int) -> list[str]:
        placer = Placer(fleet_of(*[(2, 64)] * 8), policy_by_name("random", np.random.default_rng(seed)))
        return [placement.node for _ in range(20) if (placement := placer.best(HALF))]

    assert draws(1) == draws(1)
    assert len(set(draws(1))) > 3


def test_equal_scores_go_to_the_first_name_whatever_the_order_of_rows() -> None:
    for names in (["x", "m", "b"], ["b", "x", "m"]):
        fleet = Fleet()
        for name in names:
            fleet.upsert_node(GpuNode(name, (Card("0", 0, "T4", 1000),), cpu_milli=8000, memory_mib=1))
        placement = Placer(fleet, policy_by_name("fgd")).best(HALF)
        assert placement is not None
        assert placement.node == "b"


def test_unknown_policy() -> None:
    with pytest.raises(PolicyError, match="unknown policy 'best'; known: headroom, fgd"):
        policy_by_name("best")


def test_every_policy_places_every_kind_of_pod() -> None:
    for name in POLICIES:
        fleet = fleet_of((8, 96))
        placer = Placer(fleet, policy_by_name(name), check_host=True)
        for request in (HALF, WHOLE, FOUR, NO_GPU, GpuRequest(2, vram_mib=300)):
            placement = placer.best(request)
            assert placement is not None, name
            assert len(placement.cards) == request.count
            hold(fleet, request, placement)


class TestPlacer:
    def test_excluded_and_offered_rows(self) -> None:
        placer = Placer(fleet_of(*[(2, 64)] * 30), policy_by_name("bestfit"))
        assert placer.best_row(HALF) == 0
        assert placer.best_row(HALF, excluded={0}) == 1
        assert placer.best_row(HALF, lambda row: row >= 20) == 20
        assert placer.best_row(HALF, lambda row: row >= 20, excluded=set(range(25))) == 25
        assert placer.best_row(HALF, lambda row: False) is None

    def test_order_gives_ten_to_the_favourite_and_leaves_out_what_does_not_fit(self) -> None:
        fleet = fleet_of((2, 64), (2, 48), (2, 32), (2, 2))
        placer = Placer(fleet, policy_by_name("bestfit"), check_host=True)
        assert placer.order(HALF, [0, 1, 2, 3]) == [(0, 0), (1, 5), (2, 10)]

    def test_a_node_that_comes_or_changes_is_seen(self) -> None:
        fleet = fleet_of((2, 64))
        placer = Placer(fleet, policy_by_name("bestfit"))
        assert placer.best_row(HALF) == 0
        fleet.upsert_node(GpuNode("0-first", (Card("0", 0, "T4", 1000),), cpu_milli=4000, memory_mib=1))
        assert placer.best_row(HALF) == 1
        fleet.remove_node("0-first")
        assert placer.best_row(HALF) == 0


class TestProfile:
    def test_old_arrivals_fade(self) -> None:
        learned = LearnedProfile(half_life_arrivals=10)
        for _ in range(10):
            learned.observe(HALF)
        for _ in range(10):
            learned.observe(WHOLE)
        profile = learned.profile()
        assert profile.kinds == (WHOLE, HALF)
        assert profile.shares == pytest.approx((2 / 3, 1 / 3))

    def test_no_arrival_no_profile(self) -> None:
        assert LearnedProfile().profile() == Profile()

    def test_host_memory_does_not_make_a_kind(self) -> None:
        profile = Profile.from_requests([GpuRequest(1, milli=500, memory_mib=at) for at in range(5)])
        assert profile.kinds == (GpuRequest(1, milli=500),)
        assert profile.memory_mib == (2.0,)

    def test_host_memory_of_a_kind_is_a_mean_in_which_old_arrivals_fade(self) -> None:
        learned = LearnedProfile(half_life_arrivals=10)
        for memory_mib in [100] * 10 + [400] * 10:
            learned.observe(dataclasses.replace(HALF, memory_mib=memory_mib))
        assert learned.profile().memory_mib == pytest.approx((300.0,))

    def test_a_profile_starts_from_what_was_believed_before(self) -> None:
        prior = Profile.from_requests([dataclasses.replace(HALF, memory_mib=300)])
        learned = LearnedProfile(prior=prior, prior_arrivals=2.0, half_life_arrivals=1e9)
        learned.observe(HALF)
        assert learned.profile().memory_mib == pytest.approx((200.0,))

    def test_weights_stay_finite_over_a_long_life(self) -> None:
        learned = LearnedProfile(half_life_arrivals=1)
        for at in range(5000):
            learned.observe(HALF if at % 2 else WHOLE)
        assert learned.profile().shares == pytest.approx((2 / 3, 1 / 3))

    def test_of_ever_new_kinds_the_rarest_are_forgotten(self) -> None:
        learned = LearnedProfile()
        for at in range(10_000):
            learned.observe(GpuRequest(1, vram_mib=1 + at))
            learned.observe(HALF)
        kinds = learned.profile().kinds
        assert kinds[0] == HALF
        assert len(kinds) <= 1024

    def test_many_sizes_become_few_that_still_fit_where_the_old_ones_did(self) -> None:
        requests = [GpuRequest(1, vram_mib=20_000 + at, cpu_milli=1000 + at) for at in range(500)]
        requests += [GpuRequest(2, milli=500 + at % 400, memory_mib=100) for at in range(500)]
        profile = Profile.from_requests(requests)
        coarse = profile.coarsened(128)
        assert 2 < len({size_of(kind) for kind in coarse.kinds}) <= 128
        assert sum(coarse.shares) == pytest.approx(1)
        of_two = sum(share for kind, share in zip(coarse.kinds, coarse.shares, strict=True) if kind.count == 2)
        assert of_two == pytest.approx(0.5)
        assert max(kind.vram_mib for kind in coarse.kinds) <= 20_499
        for kind, memory_mib in zip(coarse.kinds, coarse.memory_mib, strict=True):
            assert memory_mib == pytest.approx(100 if kind.count == 2 else 0)
        assert profile.coarsened(1000) is profile

    def test_a_profile_can_be_asked_for_while_arrivals_are_counted(self) -> None:
        learned, ended = LearnedProfile(), threading.Event()
        failures: list[Exception] = []

        def ask() -> None:
            while not ended.is_set():
                try:
                    learned.profile()
                except Exception as error:
                    failures.append(error)

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        thread = threading.Thread(target=ask)
        thread.start()
        for at in range(20_000):
            learned.observe(GpuRequest(1, vram_mib=1 + at % 5000))
        ended.set()
        thread.join()
        sys.setswitchinterval(before)
        assert failures == []


def test_nodes_of_a_new_kind_are_placed_on_before_the_next_plan() -> None:
    fleet = fleet_of((2, 64), (8, 96))
    placer = Placer(fleet, policy_by_name("headroom"))
    placer.replan(Profile.from_requests([HALF, WHOLE, FOUR]))
    fleet.upsert_node(GpuNode("new", (Card("0", 0, "H100", 4000),), cpu_milli=64_000, memory_mib=1))
    on_new = GpuRequest(1, milli=500, models=frozenset({"H100"}))
    placement = placer.best(on_new)
    assert placement is not None
    assert (placement.node, placement.share_mib) == ("new", (2000,))


def test_a_policy_may_look_at_a_copy_of_the_fleet_in_between() -> None:
    fleet = fleet_of((2, 64), (8, 96))
    placer = Placer(fleet, policy_by_name("headroom"))
    placer.replan(Profile.from_requests([HALF, WHOLE, FOUR]))
    before = placer.score(HALF, 0)
    trial = fleet.copy()
    trial.upsert_node(GpuNode("a", (Card("0", 0, "H100", 4000),), cpu_milli=64_000, memory_mib=1))
    Placer(trial, placer.policy).best(HALF)
    fleet.touch(0)
    assert placer.score(HALF, 0) == before


def test_cards_keep_their_worth_where_cpu_would_run_out_first() -> None:
    """Else nothing would be worth packing, and a profile learned from few arrivals says so easily."""
    fleet = fleet_of(*[(8, 16)] * 3)
    policy = policy_by_name("headroom")
    inputs = policy.inputs(fleet, Profile.from_requests([HALF, WHOLE, NO_GPU]))
    table = policy.solve(inputs)
    assert table.value[1, 1000] > 0
    assert inputs.cpu_milli.sum() > 3 * 16_000


@pytest.mark.parametrize(("short", "ample"), [((4, 64), (16, 64)), ((16, 16), (16, 64))])
def test_a_pod_leaves_cpu_and_memory_to_the_leftovers_that_still_need_them(
    short: tuple[int, int], ample: tuple[int, int]
) -> None:
    """Each node has one card with room for a last half, which takes 4 cores and 16 GiB; a pod without a GPU takes as much."""
    half = dataclasses.replace(HALF, memory_mib=16 * 1024)
    fleet = Fleet()
    for name, (cores, gib) in {"a": short, "b": ample}.items():
        card = Card("0", 0, "T4", 1000)
        fleet.upsert_node(GpuNode(name, (card,), cpu_milli=cores * 1000, memory_mib=gib * 1024))
        use(fleet, fleet.row_of[name], c0=500)
    placer = Placer(fleet, policy_by_name("headroom"), check_host=True)
    placer.replan(Profile.from_requests([half]))
    beside = GpuRequest(0, cpu_milli=4_000, memory_mib=16 * 1024)
    placement = placer.best(beside)
    assert placement is not None
    assert placement.node == "b"
