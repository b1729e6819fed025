"""One model on two card types: the fleet's books, and the study's command."""

from array import array

import pytest
from click.testing import CliRunner

from headroom.domain.engines import VLLM
from simulations.serving.engine.hardware import bundled_pairs, find_pair
from simulations.serving.engine.request import Request
from simulations.serving.fleet.placing import SharedFleet, uniform_fleet
from simulations.serving.fleet.pods import Phase
from simulations.serving.fleet.scrapes import Scrapes, Windows
from simulations.serving.fleet.served import Served
from simulations.serving.laws.headroom import pod_key
from simulations.serving.loads.patterns import parse_pattern
from simulations.serving.loads.traces import Trace
from simulations.serving.studies import variants
from simulations.serving.studies.mixed import Kind, MixedFleet
from simulations.virtual_time import Engine

CARDS = ("L40S", "H100-80GB")


def fleet_of(engine: Engine, few: int = 4) -> MixedFleet:
    pairs = [find_pair(bundled_pairs(), variants.MODEL, card) for card in CARDS]
    shared = SharedFleet([node for pair in pairs for node in uniform_fleet(pair.card, pair.card_vram_mib, few, 1)])
    kinds = [
        Kind(pair, price, capacity, shared.cards_for(pair))
        for pair, price, capacity in zip(pairs, (2.0, 7.0), (1.0, 3.0), strict=True)
    ]
    return MixedFleet(engine, kinds, lambda _order, _placement: 60.0, Served())


def test_each_kind_is_paid_from_placement_to_the_end() -> None:
    engine = Engine()
    fleet = fleet_of(engine)
    fleet.scale((1, 0), warm=True)
    engine.run(1800.0)
    fleet.scale((1, 2))
    engine.run(3600.0)
    assert fleet.spent_until_now() == pytest.approx(2.0 + 7.0)  # one hour of one, half an hour of two
    fleet.scale((0, 1))
    engine.run(7200.0)
    assert fleet.spent_until_now() == pytest.approx(9.0 + 7.0)
    assert fleet.counts() == (0, 1)


def test_a_card_type_that_is_used_up_does_not_stop_the_other() -> None:
    engine = Engine()
    fleet = fleet_of(engine, few=1)
    fleet.scale((3, 1))
    assert (len(fleet.of(0, Phase.PENDING)), len(fleet.of(1, Phase.STARTING))) == (2, 1)
    engine.run(61.0)
    assert len(fleet.ready) == 2
    fleet.scale((1, 1))
    assert fleet.counts() == (1, 1)
    assert len(fleet.ready) == 2


def test_a_small_load_goes_to_the_cheap_card_and_a_used_up_one_to_the_other() -> None:
    trace = parse_pattern("pattern:steady,rate=6,hours=0.3", 1)
    cheap = variants.run(trace, CARDS, {"L40S": 8, "H100-80GB": 8}, 1)
    assert cheap.attainment > 0.97
    assert cheap.hours[1] < 0.05
    few = variants.run(trace, CARDS, {"L40S": 1, "H100-80GB": 8}, 1)
    assert few.attainment > 0.97
    assert few.hours[1] > 0.2


def test_a_card_that_is_too_slow_when_idle_is_left_out() -> None:
    pairs = [find_pair(bundled_pairs(), variants.MODEL, card) for card in CARDS]
    short = Trace("short", array("d", [0.0]), array("l", [900]), array("l", [9]))
    long = Trace("long", array("d", [0.0]), array("l", [24_000]), array("l", [9]))
    longest = Trace("longest", array("d", [0.0]), array("l", [100_000]), array("l", [9]))
    assert [pair.card for pair in variants.capable(pairs, short)] == list(CARDS)
    assert [pair.card for pair in variants.capable(pairs, long)] == ["H100-80GB"]
    assert variants.capable(pairs, longest) == pairs


def test_the_command_says_what_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        variants,
        "parse_pattern",
        lambda _text, _seed: Trace("few", array("d", [0.0, 40.0]), array("l", [900] * 2), array("l", [99] * 2)),
    )
    said = CliRunner().invoke(variants.main, ["--seeds", "1", "--load", "few"])
    assert said.exit_code == 0, said.exception
    assert "few: 0.0 % cheaper than the best single type; 15 % cheaper: missed; never worse: holds" in said.stdout


@pytest.mark.parametrize(
    ("attainment", "dollars", "best", "words"),
    [
        pytest.param(0.99, 8.0, 10.0, "15 % cheaper: reached; never worse: holds", id="much cheaper"),
        pytest.param(0.99, 9.0, 10.0, "15 % cheaper: missed; never worse: holds", id="a little cheaper"),
        pytest.param(
            0.99, 11.0, 10.0, "holds but for $1.00, less than one replica ($2.00)", id="a replica of rounding"
        ),
        pytest.param(0.99, 13.0, 10.0, "15 % cheaper: missed; never worse: missed", id="dearer"),
        pytest.param(0.97, 5.0, 10.0, "missed; too few within the objective (97.00 % of 98 %)", id="serves less"),
        pytest.param(0.99, 5.0, None, "no single type serves 98 %; the mix serves 99.00 %", id="no single type"),
    ],
)
def test_the_verdict(attainment: float, dollars: float, best: float | None, words: str) -> None:
    said = variants.verdict(variants.Mean(attainment, dollars), best, 0.98, 2.0)
    assert said.endswith(words)


def test_a_load_may_name_its_own_cards() -> None:
    usual = "L40S=2,H100-80GB=8"
    assert variants.parse_case("ramp,rate=1", usual) == ("ramp,rate=1", {"L40S": 2, "H100-80GB": 8})
    own = variants.parse_case("ramp,rate=1@L40S=1,H100-80GB=3", usual)
    assert own == ("ramp,rate=1", {"L40S": 1, "H100-80GB": 3})
    with pytest.raises(variants.VariantsUsageError, match="T4=1"):
        variants.parse_case("ramp,rate=1@T4=1", usual)


def test_each_pod_reports_the_share_of_its_own_cache_and_gets_requests_by_its_room() -> None:
    """With the first kind's cache for all, an H100 would seem full at 44 % of its room, and be worth a third less than it is."""
    engine = Engine()
    fleet = fleet_of(engine)
    scrapes = Scrapes(fleet, interval_seconds=15.0, seed=1)
    fleet.scale((1, 1), warm=True)
    count = 66
    fleet.feed([Request(0.0, 1000, 4000) for _ in range(count)])
    engine.run(30.0)
    snapshot = scrapes.snapshot(30.0, Windows(30.0, 60.0, 90.0), pod_key)
    rooms = [kind.pair.speed.kv_tokens for kind in fleet.kinds]
    for pod in fleet.pods:
        at = fleet.kind_of(pod)
        running = snapshot.gauges[VLLM.running.names[0]][pod_key(pod)].value
        share = snapshot.gauges[VLLM.kv_cache.names[0]][pod_key(pod)].value
        assert running == pytest.approx(count * rooms[at] / sum(rooms), abs=1.0)
        assert 1000 <= share * rooms[at] / running <= 5000


@pytest.mark.parametrize("cards", ["L40S=4", "L40S=4,H100-80GB=x", "L40S=4,T4=2", "L40S=0,H100-80GB=1"])
def test_cards_that_make_no_sense_are_named(cards: str) -> None:
    with pytest.raises(variants.VariantsUsageError, match="--cards"):
        variants.parse_cards(cards)
