"""The usage report: counters into sums, sums into lines, lines into tables; nothing lost, nothing guessed."""

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.energy.tariff import Tariff, TariffError, load_tariff, parse_tariff
from agent.usage import cli as usage_cli
from agent.usage.cli import UsageError, as_csv, as_json, moment, table
from agent.usage.report import CardKey, CardUse, CounterSum, Grouping, PodKey, PodUse, Usage, build_report
from agent.usage.source import read_usage, step_for
from headroom.prometheus.answer import Series
from tests.fakes.prometheus import FakePrometheus

HOUR = 3600.0
KWH = 3.6e6
CARD = CardKey("n1", "GPU-a", "L4")


@pytest.mark.parametrize(
    ("samples", "born", "increase"),
    [
        pytest.param([(90, 10), (105, 15), (120, 30)], False, 20, id="from the last sample before the window"),
        pytest.param([(100, 10), (120, 30)], False, 20, id="a sample on the edge is before"),
        pytest.param([(105, 15), (120, 30)], False, 15, id="first seen inside, age unknown"),
        pytest.param([(105, 15), (120, 30)], True, 30, id="born inside: it was zero"),
        pytest.param([(90, 10), (105, 15), (120, 4), (130, 6)], False, 11, id="started anew"),
        pytest.param([(90, 10)], False, 0, id="ended before"),
        pytest.param([], False, 0, id="never there"),
    ],
)
def test_the_increase_of_a_counter(samples: list[Any], born: bool, increase: float) -> None:
    counter = CounterSum(100.0)
    for at, value in samples:
        counter.add(at, value, born=born)
    assert counter.increase == increase


def pod(name: str, project: str, card: CardKey = CARD, namespace: str = "chat") -> PodKey:
    return PodKey(card, namespace, name, project)


def usage_of(
    cards: dict[CardKey, CardUse] | None = None,
    pods: dict[PodKey, PodUse] | None = None,
    tokens: dict[tuple[str, str], float] | None = None,
) -> Usage:
    return Usage(0.0, 10 * HOUR, cards or {}, pods or {}, tokens or {})


def card_use(**fields: Any) -> CardUse:
    defaults: dict[str, Any] = {"observed": {"measured": 10 * HOUR}, "first_seen": -60.0}
    return CardUse(**(defaults | fields))


FULL = usage_of(
    cards={CARD: card_use(energy={"measured": 10 * KWH}, idle_energy={"measured": 1 * KWH},
                          unattributed_energy={"measured": 2 * KWH}, unreserved=4 * HOUR, busy=5 * HOUR, unattributed_busy=1 * HOUR)},
    pods={
        pod("a", "search"): PodUse({"measured": 3 * KWH}, reserved=4 * HOUR, busy=3 * HOUR),
        pod("b", "search", namespace="mail"): PodUse({"measured": 2 * KWH}, reserved=1 * HOUR, busy=1 * HOUR),
        pod("c", "mail", namespace="mail"): PodUse({"measured": 1 * KWH, "estimated": 1 * KWH}, reserved=1 * HOUR),
    },
    tokens={("chat", "a"): 4000.0, ("mail", "b"): 1000.0, ("chat", "ghost"): 7.0},
)  # fmt: skip
TARIFF = Tariff(
    currency="EUR", card_hour_prices={"L4": 2.0}, pue=1.2, pue_source="own", grams_per_kwh=100.0, grams_source="grid"
)


def lines(by: Grouping = Grouping.PROJECT, usage: Usage = FULL, tariff: Tariff = TARIFF) -> dict[str, Any]:
    return {line.name: line for line in build_report(usage, by, tariff).all_lines()}


def test_a_project_line_has_everything_finance_asks_for() -> None:
    line = lines()["search"]
    assert (line.gpu_hours_reserved, line.gpu_hours_busy, line.kwh) == pytest.approx((5.0, 4.0, 5.0))
    assert line.idle_share == pytest.approx(0.2)
    assert line.kg_co2e == pytest.approx(5.0 * 1.2 * 100 / 1000)
    assert (line.cost, line.tokens) == (10.0, 5000.0)
    assert (line.kwh_per_1000_tokens, line.cost_per_1000_tokens) == pytest.approx((1.0, 2.0))
    assert (line.energy_source, line.coverage) == ("measured", 1.0)


def test_idle_unattributed_and_total_are_lines_of_their_own() -> None:
    found = lines()
    assert (found["(idle)"].gpu_hours_reserved, found["(idle)"].kwh, found["(idle)"].cost) == (4.0, 1.0, 8.0)
    assert (found["(unattributed)"].kwh, found["(unattributed)"].gpu_hours_busy) == (2.0, 1.0)
    assert (found["(total)"].kwh, found["(total)"].cost, found["(total)"].tokens) == (10.0, 20.0, 5000.0)
    assert found["(idle)"].idle_share is None


@pytest.mark.parametrize(
    ("by", "names"),
    [
        (Grouping.PROJECT, {"search": 5.0, "mail": 2.0}),
        (Grouping.NAMESPACE, {"chat": 3.0, "mail": 4.0}),
        (Grouping.MODEL, {"L4": 7.0}),
    ],
)
def test_lines_by_project_namespace_and_model(by: Grouping, names: dict[str, float]) -> None:
    found = {name: line.kwh for name, line in lines(by).items() if not name.startswith("(")}
    assert found == pytest.approx(names)


@pytest.mark.parametrize(
    ("energy", "words"),
    [
        ({"measured": KWH}, "measured"),
        ({"estimated": KWH}, "estimated"),
        ({"measured": 3 * KWH, "estimated": KWH}, "25.0% estimated"),
        ({}, "none"),
    ],
)
def test_how_the_energy_is_known_is_said(energy: dict[str, Any], words: str) -> None:
    assert (
        lines(usage=usage_of({CARD: card_use()}, {pod("a", "p"): PodUse(energy, reserved=HOUR)}))["p"].energy_source
        == words
    )


def test_a_model_without_a_price_has_no_cost_and_is_named() -> None:
    report = build_report(FULL, Grouping.PROJECT, Tariff(card_hour_prices={"A100": 3.0}))
    assert report.lines[0].cost is None
    assert any("no price is stated for L4" in note for note in report.notes)
    assert lines(tariff=Tariff(card_hour_prices={"*": 1.0}))["search"].cost == 5.0


def test_energy_drawn_while_no_agent_looked_is_in_the_total_and_nobodys() -> None:
    usage = usage_of(
        {CARD: card_use(energy={"measured": 9 * KWH}, idle_energy={"measured": 9 * KWH}, device_energy=10 * KWH)}
    )
    report = build_report(usage, Grouping.PROJECT, TARIFF)
    assert (report.total.kwh, report.unattributed.kwh, report.idle.kwh) == pytest.approx((10.0, 1.0, 9.0))
    assert any("1.000 kWh were drawn while no agent was looking" in note for note in report.notes)


def test_coverage_falls_with_what_was_not_observed() -> None:
    other = CardKey("n2", "GPU-b", "L4")
    cards = {
        CARD: card_use(observed={"measured": 5 * HOUR, "unknown": 5 * HOUR}),
        other: card_use(observed={"estimated": 5 * HOUR}, first_seen=5 * HOUR),
    }
    found = lines(
        usage=usage_of(cards, {pod("a", "p"): PodUse(reserved=HOUR), pod("b", "q", other): PodUse(reserved=HOUR)})
    )
    assert (found["p"].coverage, found["q"].coverage) == (0.5, 1.0)
    assert found["(total)"].coverage == pytest.approx(10 / 15)


def test_tokens_of_pods_without_a_card_are_mentioned_and_in_no_line() -> None:
    report = build_report(FULL, Grouping.PROJECT, TARIFF)
    assert any(note.startswith("7 tokens come from pods that held no card") for note in report.notes)


def test_every_format_carries_the_figures_and_what_they_rest_on() -> None:
    report = build_report(FULL, Grouping.PROJECT, TARIFF)
    as_read = json.loads(as_json(report))
    rows = list(csv.DictReader(io.StringIO(as_csv(report))))
    assert [line["project"] for line in as_read["lines"]] == ["mail", "search", "(idle)", "(unattributed)", "(total)"]
    for line, row in zip(as_read["lines"], rows, strict=True):
        for key in ("pue", "pue_source", "grams_per_kwh", "grams_year", "grams_source", "kwh", "cost", "coverage"):
            assert key in line
            assert row[key] == ("" if line[key] is None else str(line[key]))
    assert rows[0]["from"] == "1970-01-01T00:00:00Z"
    text = table(report)
    assert "kg CO2e = kWh x PUE 1.2 (own) x 100 g/kWh (grid, 2019)" in text
    assert next(line for line in text.splitlines() if line.startswith("search")).split()[1:4] == [
        "5.00",
        "4.00",
        "20.0%",
    ]


def test_an_empty_window_is_a_report_too() -> None:
    report = build_report(usage_of(), Grouping.PROJECT, TARIFF)
    assert (report.total.kwh, report.total.coverage, report.lines) == (0.0, None, [])
    assert "(total)" in table(report)


class Shelf:
    """Series in memory, cut to what a selector asks for, as Prometheus would."""

    def __init__(self, **metrics: list[Series]) -> None:
        self.metrics = {f"headroom_{name}_total": series for name, series in metrics.items()}
        self.asked: list[str] = []

    async def query(self, promql: str) -> list[Series]:
        self.asked.append(promql)
        name = promql.split('"')[1]
        width, high = float(promql.split("[")[1].partition("ms")[0]) / 1000, float(promql.split("@ ")[1])
        found = []
        for series in self.metrics.get(name, []):
            points = tuple(point for point in series.points if high - width < point[0] <= high)
            if points:
                found.append(Series({"__name__": name} | series.labels, points))
        return found

    async def ask(self, promql: str) -> "Given":
        return Given(await self.query(promql))


class Given(list[Series]):
    """An answer that is whole."""

    odd = warnings = notes = ()


PLACE = {"node": "n1", "card": "GPU-a", "model": "L4"}
WHO = PLACE | {"namespace": "chat", "pod": "a", "project": "search"}


def line_of(
    labels: dict[str, str], first: float, last: float, rate: float, every: float = 15.0, offset: float = 0.0
) -> Series:
    count = int((last - first) / every) + 1
    return Series(labels, tuple((first + at * every, offset + rate * at * every) for at in range(count)))


async def test_windows_that_touch_add_up_and_chunks_do_not_show() -> None:
    shelf = Shelf(
        card_observed_seconds=[line_of(PLACE | {"energy": "measured"}, 0, 20_000, 1.0)],
        card_energy_joules=[line_of(PLACE | {"source": "measured"}, 0, 20_000, 100.0)],
    )
    whole = await read_usage(shelf, 1000.0, 11_000.0)
    parts = [await read_usage(shelf, *window) for window in ((1000.0, 4000.0), (4000.0, 11_000.0))]
    energies = [part.cards[CARD].energy["measured"] for part in parts]
    assert whole.cards[CARD].energy["measured"] == sum(energies) == pytest.approx(1_000_000, rel=0.002)
    assert len({query for query in shelf.asked if "card_energy_joules" in query}) > 3


async def test_a_pod_that_came_within_the_window_counts_from_zero_but_monitoring_that_began_does_not() -> None:
    shelf = Shelf(
        card_observed_seconds=[line_of(PLACE | {"energy": "measured"}, 2000, 5000, 1.0, offset=86_400)],
        card_energy_joules=[line_of(PLACE | {"source": "measured"}, 2000, 5000, 100.0, offset=1e9)],
        pod_energy_joules=[
            line_of(WHO | {"source": "measured"}, 2000, 5000, 50.0, offset=1e8),
            line_of(WHO | {"source": "measured", "pod": "late"}, 3005, 5000, 50.0, offset=600.0),
        ],
    )
    usage = await read_usage(shelf, 1000.0, 5000.0)
    assert usage.cards[CARD].energy["measured"] == pytest.approx(300_000)
    energies = {key.pod: use.energy["measured"] for key, use in usage.pods.items()}
    assert energies == pytest.approx({"a": 150_000, "late": 600 + 1995 // 15 * 15 * 50})


async def test_a_pod_that_ended_before_the_window_makes_no_line() -> None:
    shelf = Shelf(
        card_observed_seconds=[line_of(PLACE | {"energy": "measured"}, 0, 6000, 1.0)],
        pod_reserved_seconds=[line_of(WHO, 0, 900, 0.5), line_of(WHO | {"pod": "b"}, 0, 6000, 0.5)],
    )
    usage = await read_usage(shelf, 1000.0, 6000.0)
    assert {key.pod for key in usage.pods} == {"b"}


async def test_restarts_double_scrapes_and_renamed_labels_change_nothing() -> None:
    first = line_of(PLACE | {"source": "measured", "instance": "10.0.0.1:8903"}, 0, 3000, 100.0)
    restarted = {"source": "measured", "instance": "10.0.0.2:8903", "namespace": "headroom-system", "pod": "agent-x"}
    second = line_of(PLACE | restarted, 3015, 6000, 100.0)
    again = Series(
        second.labels | {"instance": "10.0.0.2:8903", "replica": "b"},
        tuple((at + 1, value) for at, value in second.points),
    )
    renamed = {f"exported_{key}" if key in ("namespace", "pod") else key: value for key, value in WHO.items()}
    shelf = Shelf(
        card_observed_seconds=[line_of(PLACE | {"energy": "measured"}, 0, 6000, 1.0)],
        card_energy_joules=[first, second, again],
        pod_busy_seconds=[
            line_of(renamed | {"namespace": "headroom-system", "pod": "agent-x", "job": "pods"}, 0, 6000, 0.5),
            line_of(renamed | {"namespace": "evil", "pod": "liar", "job": "podmon/evil"}, 0, 6000, 77.0),
        ],
    )
    usage = await read_usage(shelf, 300.0, 6000.0)
    assert usage.cards[CARD].energy["measured"] == pytest.approx((3000 - 300) * 100 + 2985 * 100)
    assert {(key.namespace, key.pod, key.project): use.busy for key, use in usage.pods.items()} == pytest.approx(
        {("chat", "a", "search"): 2850.0}
    )
    report = build_report(usage, Grouping.PROJECT, Tariff())
    assert [note for note in report.notes if "podmon/evil" in note]


async def test_tokens_are_summed_over_metrics_and_engines() -> None:
    shelf = Shelf()
    claimed = {"exported_namespace": "chat", "namespace": "x", "exported_pod": "a", "pod": "y", "job": "dcgm-exporter"}
    shelf.metrics["vllm:generation_tokens_total"] = [
        line_of({"namespace": "chat", "pod": "a", "model_name": "m"}, 0, 6000, 2.0)
    ]
    shelf.metrics["vllm:prompt_tokens_total"] = [
        line_of({"namespace": "chat", "pod": "a"}, 0, 6000, 3.0),
        line_of(claimed, 0, 6000, 50.0),  # an engine speaks of itself
    ]
    shelf.metrics["sglang:generation_tokens_total"] = [line_of({"namespace": "chat", "pod": "b"}, 1500, 6000, 1.0)]
    usage = await read_usage(shelf, 300.0, 6000.0)
    assert usage.tokens == pytest.approx({("chat", "a"): 5700 * 5, ("chat", "b"): 4500, ("x", "y"): 5700 * 50})


@pytest.mark.parametrize(("seconds", "step"), [(3600, 0.0), (6 * 3600, 0.0), (86_400, 60.0), (30 * 86_400, 300.0)])
def test_long_windows_are_read_in_steps(seconds: float, step: float) -> None:
    assert step_for(seconds) == step


async def test_a_step_is_asked_for_as_a_subquery() -> None:
    shelf = Shelf()
    await read_usage(shelf, 0.0, 86_400.0)
    assert all(":60000ms]" in query for query in shelf.asked)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("24h", 1_000_000 - 86_400),
        ("0s", 1_000_000),
        ("1970-01-02", 86_400),
        ("1970-01-02T00:00:00+01:00", 82_800),
        ("1970-01-01T00:01Z", 60),
    ],
)
def test_moments(text: str, at: float) -> None:
    assert moment("--from", text, 1_000_000.0) == at


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "99999999d"], "--from: '99999999d' is before 1970"),
        (["--from", "2026-11-02", "--to", "2026-11-01"], "--from 2026-11-02 is not before --to 2026-11-01"),
        (["--from", "2999-01-01", "--to", "2999-02-01"], "--from 2999-01-01 is in the future"),
        (["--timeout", "0s"], "--timeout: '0s' is not above 0"),
        (["--step", "1x"], "--step: '1x' is not a duration"),
    ],
)
def test_windows_and_durations_that_make_no_sense(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(usage_cli.main, ["--prometheus", "http://127.0.0.1:9", *arguments])
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)


async def test_a_window_that_ends_in_the_future_is_reported_up_to_now() -> None:
    async with FakePrometheus().serve() as prometheus:
        arguments = ["--prometheus", prometheus.url, "--from", "1h", "--to", "2999-01-01"]
        result = await asyncio.to_thread(CliRunner().invoke, usage_cli.main, arguments)
    assert result.exception is None
    assert "--to 2999-01-01 is in the future" in result.output
    assert "to 2999" not in result.output.splitlines()[0]


def test_a_moment_that_is_none_is_named() -> None:
    with pytest.raises(UsageError, match="--from: 'yesterday' is neither a time"):
        moment("--from", "yesterday", 0.0)


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ([], "must hold keys and values"),
        ({"prices": {}}, "unknown key 'prices'"),
        ({"card_hour_prices": {"L4": -1}}, "card_hour_prices: L4: -1"),
        ({"budgets": {"search": "much"}}, r"\$.budgets"),
        ({"pue": 0.9, "pue_source": "own"}, "pue: 0.9 is not between 1 and 10"),
        ({"pue": 1.1}, "pue: 1.1 needs a pue_source"),
        ({"grams_per_kwh": 30}, "grams_per_kwh: 30.0 needs a grams_source"),
        ({"grams_per_kwh": 9000, "grams_source": "coal"}, "is not between 0 and 2000"),
    ],
)
def test_a_tariff_that_is_wrong_is_named(plain: list[Any] | dict[str, Any], words: str) -> None:
    with pytest.raises(TariffError, match=words):
        parse_tariff(plain)


def test_a_tariff_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tariff.yaml"
    file.write_text("currency: EUR\ncard_hour_prices: {L4: 0.8}\npue: 1.15\npue_source: measured 2026\n")
    tariff = load_tariff(file)
    assert (tariff.price_of("L4"), tariff.price_of("A100"), tariff.pue) == (0.8, None, 1.15)
    assert load_tariff(None) == Tariff()
    file.write_text("a: [")
    with pytest.raises(TariffError, match="is not YAML"):
        load_tariff(file)
