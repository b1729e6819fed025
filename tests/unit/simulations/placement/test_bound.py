"""The bound on allocation, on clusters small enough to solve in the head."""

from collections.abc import Sequence

import pytest

from headroom.domain.model import Card, GpuNode, GpuRequest
from simulations.placement.bound import asks_at_least, bound_percent
from simulations.placement.traces import Pod


def cluster(nodes: int, cards: int = 1, cores: int = 1000, model: str = "T4") -> list[GpuNode]:
    described = tuple(Card(str(at), at, model, 1000) for at in range(cards))
    return [GpuNode(f"{model}-{at}", described, cpu_milli=1000 * cores, memory_mib=1000) for at in range(nodes)]


def pods(*kinds: tuple[int, GpuRequest]) -> list[Pod]:
    return [Pod(f"{kind}-{at}", request) for kind, (number, request) in enumerate(kinds) for at in range(number)]


def share(milli: int, cores: int = 0, models: Sequence[str] = ()) -> GpuRequest:
    return GpuRequest(1, milli=milli, cpu_milli=1000 * cores, models=frozenset(models))


@pytest.mark.parametrize(
    ("case", "nodes", "arrivals", "load", "percent"),
    [
        ("everything that has come fits", cluster(10), pods((1, share(500))), 0.5, 50.0),
        ("sizes that fill a card", cluster(10), pods((1, share(500))), 1.3, 100.0),
        ("a size that leaves a quarter of each card", cluster(10), pods((1, share(750))), 1.3, 75.0),
        ("sizes that leave a tenth", cluster(10), pods((1, share(600)), (1, share(300))), 1.0, 90.0),
        # Ten of each have come. Whole cards alone would fill the cluster; but while one of them fits, so does a 600.
        ("a larger size stops no later", cluster(10), pods((1, share(1000)), (1, share(600))), 1.6, 80.0),
        ("no CPU for more than half the cards", cluster(10, cores=4), pods((1, share(1000, cores=8))), 1.0, 50.0),
        ("CPU of pods without a GPU", cluster(10, cores=8),
         pods((1, share(1000, cores=8)), (1, GpuRequest(0, cpu_milli=8000))), 1.0, 50.0),
        ("only cards of the model named", cluster(5) + cluster(5, model="A10"),
         pods((1, share(1000, models=["A10"]))), 1.0, 50.0),
        ("several cards", cluster(5, cards=2), pods((1, GpuRequest(2, milli=1000))), 1.0, 100.0),
    ],
)  # fmt: skip
def test_bound(case: str, nodes: list[GpuNode], arrivals: list[Pod], load: float, percent: float) -> None:
    assert bound_percent(nodes, arrivals, load) == pytest.approx(percent, abs=0.01), case


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (share(600), share(300), True),
        (share(300), share(600), False),
        (share(600, cores=1), share(300, cores=2), False),
        (share(600, cores=2), GpuRequest(0, cpu_milli=1000), True),
        (GpuRequest(0, cpu_milli=1000), share(600), False),
        (GpuRequest(2, milli=1000), share(1000), True),
        (share(600, models=["T4"]), share(600), True),
        (share(600), share(600, models=["T4"]), False),
        (share(600, models=["T4"]), share(600, models=["T4", "A10"]), True),
        (GpuRequest(1, milli=600, memory_mib=1), GpuRequest(1, milli=300, memory_mib=2), False),
    ],
)
def test_a_place_for_one_is_a_place_for_the_other(one: GpuRequest, other: GpuRequest, expected: bool) -> None:
    assert asks_at_least(one, other) is expected
