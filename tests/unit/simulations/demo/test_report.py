"""The demo's accounts, and the page that shows them."""

import asyncio
import functools
import random
from typing import Any

import pytest
from jinja2 import UndefinedError

from simulations.demo.fleet import CARD_TYPES, build_fleet
from simulations.demo.report import change
from simulations.demo.services.accounts import GRAMS_CO2_PER_KWH, PUE, account_of, card_watts
from simulations.demo.services.report import percent
from simulations.demo.services.scenario import SERVICES, STORY_FLEET, pair_of, share_vram_mib, trace_of
from simulations.demo.services.side import Side, attainment, slowdown
from simulations.demo.services.supply import WholeCards
from simulations.demo.view import FleetState, fleet_lines, legend_lines
from simulations.html.render import render
from simulations.serving.laws.catalogue import LAWS


def _run() -> Side:
    nodes = build_fleet(STORY_FLEET, random.Random(1))
    side = Side(nodes, WholeCards(nodes), LAWS["hpa-gpu"], {}, seed=1, hours=0.1)
    asyncio.run(side.run(lambda _side, _share: None))
    return side


@functools.cache
def _finished() -> Side:
    return _run()


def test_card_hours_are_the_integral_of_cards_held_and_requests_are_conserved() -> None:
    side = _finished()
    account = account_of(side.record("whole"))
    by_shares = sum((share.end if share.end is not None else side.end) - share.start for share in side.shares) / 3600
    assert account.card_hours == pytest.approx(by_shares, rel=0.02)  # held is sampled each tick, shares are exact
    assert account.card_hours == pytest.approx(sum(account.card_hours_by_type.values()))
    assert account.requests == sum(len(lane.requests) for lane in side.lanes)
    for lane in side.lanes:
        deployment = lane.deployment
        inside = deployment.inside
        assert deployment.served.finished + inside + deployment.rejected_count == len(lane.requests)
        met, total = attainment(lane)
        assert 0 <= met <= total


def test_a_run_is_the_same_for_the_same_seed() -> None:
    assert account_of(_run().record("whole")) == account_of(_finished().record("whole"))


def test_energy_lies_between_idle_and_the_board_limit() -> None:
    account = account_of(_finished().record("whole"))
    kinds = CARD_TYPES.values()
    per_kwh = PUE / 1000
    floor = sum(account.card_hours_by_type.get(k.short, 0) * (k.idle_watts + k.context_watts) for k in kinds) * per_kwh
    ceiling = sum(account.card_hours_by_type.get(k.short, 0) * k.limit_watts for k in kinds) * per_kwh
    assert floor < account.kwh < ceiling
    assert account.co2_kg == pytest.approx(account.kwh * GRAMS_CO2_PER_KWH / 1000)
    assert account.dollars == pytest.approx(
        sum(account.card_hours_by_type.get(k.short, 0) * k.dollars_per_hour for k in kinds)
    )


def test_power_grows_from_a_loaded_idle_card_to_its_limit() -> None:
    card = CARD_TYPES["H100"]
    assert card_watts(card, 0.0) == card.idle_watts + card.context_watts
    assert card_watts(card, 1.0) == card.limit_watts


def test_two_busy_neighbours_halve_each_other() -> None:
    one, two = object(), object()
    pods = [(one, 1.0), (two, 0.25)]
    assert slowdown(two, pods) == pytest.approx(2.06)  # type: ignore[arg-type]
    assert slowdown(one, pods) == pytest.approx(1.265)  # type: ignore[arg-type]


def test_every_service_fits_its_card_and_its_fleet() -> None:
    for service in SERVICES:
        card = CARD_TYPES[service.card]
        assert share_vram_mib(service) <= card.vram_mib - card.reserve_mib, service.name
        whole, shared = pair_of(service, whole=True), pair_of(service, whole=False)
        assert whole.speed.kv_tokens >= shared.speed.kv_tokens, service.name
        trace = trace_of(service, 1, 0.2)
        assert list(trace.arrival_seconds) == sorted(trace.arrival_seconds)
        longest = max(p + o for p, o in zip(trace.prompt_tokens, trace.output_tokens, strict=True))
        assert longest <= shared.speed.kv_tokens, service.name


@pytest.mark.parametrize(("share", "text"), [(1.0, "100.0 %"), (0.99996, "99.9 %"), (0.981, "98.1 %")])
def test_attainment_is_never_rounded_up_to_all(share: float, text: str) -> None:
    assert percent(share) == text


def test_change_reads_as_people_say_it() -> None:
    assert change(43, 86) == "−50 %"
    assert change(3, 2) == "+50 %"
    assert change(1, 0) == ""


def test_blocks_show_each_card_by_its_share() -> None:
    nodes = tuple(build_fleet(STORY_FLEET[:1], random.Random(1)))
    state = FleetState(nodes, {("t4-01", 0): [(0, nodes[0].cards[0].usable_mib // 2)]})
    line = next(line for line in fleet_lines(state, width=40, colour=False) if line.startswith("t4-01"))
    first, second = line.split("▕")[1].rstrip("▏").split("│")
    assert first == "aaaa····"
    assert second == "·" * 8
    assert legend_lines(["chat", "code"], width=80, colour=False) == ["a chat   b code   "]


def test_a_page_without_a_figure_it_names_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render({"title": "x"}, {})


def test_data_cannot_end_its_script_element() -> None:
    page: dict[str, Any] = {
        "title": "t", "lead": "", "facts": "", "kpis": [], "story": None, "placement": None, "method": [], "footer": "",
    }  # fmt: skip
    html = render(page, {"models": ["</script><script>alert(1)"]})
    assert "</script><script>alert" not in html


@pytest.mark.parametrize(("engines", "step_ms"), [(2, 2.75), (3, 4.12), (4, 5.49)])
def test_engines_that_never_pause_slow_each_other_as_measured_on_a_card(engines: int, step_ms: float) -> None:
    """One H200, time-slicing, 2026-11-27: a step that takes one engine alone 1.31 ms."""
    pods = [(object(), 1.0) for _ in range(engines)]
    assert 1.31 * slowdown(pods[0][0], pods) == pytest.approx(step_ms, rel=0.03)  # type: ignore[arg-type]
