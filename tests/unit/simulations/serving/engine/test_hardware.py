"""Figures of model/card pairs: they meet their published points, name their sources, and bad files are refused."""

import random
import statistics
from importlib import resources
from pathlib import Path

import pytest
import yaml

from simulations.serving.arena import Conditions, Workload, run
from simulations.serving.engine.hardware import (
    HardwareError,
    Pair,
    bundled_pairs,
    decode_tokens_per_second,
    find_pair,
    read_pairs,
)
from simulations.serving.engine.replica import Replica
from simulations.serving.engine.request import Request
from simulations.serving.fleet.placing import uniform_fleet
from simulations.serving.laws.base import Objective
from simulations.serving.laws.catalogue import LAWS
from simulations.serving.loads.traces import Trace
from simulations.serving.suite.results import outcome
from simulations.virtual_time import Engine

TEXT = resources.files("simulations.serving.engine").joinpath("pairs.yaml").read_text("utf-8")
CHECKS = [(pair, check) for pair in bundled_pairs() for check in pair.checks]


@pytest.mark.parametrize(
    ("pair", "check"), [c for c in CHECKS if "output_tokens_per_second" in c[1]], ids=lambda v: getattr(v, "name", "")
)
def test_decode_speed_meets_the_published_point(pair: Pair, check: dict[str, float]) -> None:
    speed = decode_tokens_per_second(pair.speed, int(check["batch"]), check["context_tokens"])
    assert speed == pytest.approx(check["output_tokens_per_second"], rel=check["tolerance"])


@pytest.mark.parametrize(("pair", "check"), [c for c in CHECKS if "step_ms" in c[1]])
def test_a_decode_step_takes_as_long_as_measured(pair: Pair, check: dict[str, float]) -> None:
    step = pair.speed.iteration_seconds(check["batch"], 0, check["batch"] * check["context_tokens"])
    assert 1000 * step == pytest.approx(check["step_ms"], rel=check["tolerance"])


@pytest.mark.parametrize(("pair", "check"), [c for c in CHECKS if "prefill_ms" in c[1]])
def test_a_prompt_takes_as_long_as_measured(pair: Pair, check: dict[str, float]) -> None:
    assert 1000 * pair.speed.prompt_seconds(check["prompt_tokens"]) == pytest.approx(
        check["prefill_ms"], rel=check["tolerance"]
    )


def test_a_simulated_batch_of_64_runs_at_the_published_speed() -> None:
    pair = find_pair(bundled_pairs(), "llama-3.1-8b", "H100-80GB")
    replica, engine = Replica(pair.speed), Engine()
    made = [Request(0.0, 300, 400) for _ in range(64)]
    for request in made:
        replica.arrive(request, 0.0)
    while replica.next_event < float("inf"):
        engine.now = replica.next_event
        replica.advance(engine.now)
    # the request whose prompt came last decodes beside the other 63, with no prompt in between
    assert 64 / made[-1].itl_seconds == pytest.approx(7250, rel=0.05)


@pytest.mark.parametrize(
    ("pair", "check"), [c for c in CHECKS if "requests_per_second" in c[1]], ids=lambda v: getattr(v, "name", "")
)
def test_one_replica_holds_or_breaks_where_the_published_ramp_says(pair: Pair, check: dict[str, float]) -> None:
    rng = random.Random(1)
    times, time = [], 0.0
    while time < 1200:
        times.append(time)
        time += rng.expovariate(check["requests_per_second"])
    trace = Trace(
        "load", tuple(times), (int(check["prompt_tokens"]),) * len(times), (int(check["output_tokens"]),) * len(times)
    )
    objective = Objective(check["ttft_seconds"], check["itl_seconds"])
    workload = Workload(trace, pair, objective, max_replicas=1, initial_replicas=1)
    conditions = Conditions(uniform_fleet(pair.card, pair.card_vram_mib, 1, pair.cards), policy="bestfit")
    lane = run([workload], LAWS["static"], {"replicas": 1.0}, conditions, seed=1)[0]
    attainment = outcome(lane, lane.deployment.engine.now).attainment
    assert attainment > 0.97 if check["holds"] else attainment < 0.5


def test_every_figure_names_where_it_comes_from() -> None:
    for entry in yaml.safe_load(TEXT)["pairs"]:
        named = {name.strip() for key in entry["sources"] for name in key.split(",")}
        figures = {
            "base_ms",
            "per_sequence_ms",
            "per_prompt_token_ms",
            "per_kv_token_ms",
            "kv_tokens",
            "slots",
            "chunk_tokens",
            "cold_start",
        }
        assert figures <= named, (entry["model"], entry["card"])


def test_cold_starts_are_log_normal_around_their_medians_and_phases_count_when_they_apply() -> None:
    pair = find_pair(bundled_pairs(), "qwen3-32b", "H100-80GB")
    draws = [pair.cold_start_seconds(random.Random(seed), new_image=False, new_node=False) for seed in range(400)]
    assert statistics.median(draws) == pytest.approx(pair.median_start_seconds, rel=0.1)
    one = [
        pair.cold_start_seconds(random.Random(7), new_image=i, new_node=n)
        for i, n in ((False, False), (True, False), (True, True))
    ]
    assert one == sorted(one)
    assert len(set(one)) == 3


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("base_ms: 7.06", "base_ms: fast", r"llama-3.1-8b on H100-80GB\): base_ms must be a number, not 'fast'"),
        ("slots: 256", "slots: 0", "slots must be above 0, not 0"),
        ("per_kv_token_ms: 0.000049", "per_kv_token_ms: -1", "per_kv_token_ms must be at least 0"),
        ("card: L40S", "card: 3", "card must be a name, not 3"),
        ("sigma: 0.4", "sigma: 9", "sigma must be between 0 and 3"),
        ("pairs:", "things:", "has no list `pairs`"),
        ("pairs:", "pairs: [", "is not YAML"),
    ],
)
def test_a_bad_file_is_refused_with_pair_and_field(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = tmp_path / "pairs.yaml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(HardwareError, match=complaint):
        read_pairs(path)


def test_an_unknown_pair_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(HardwareError, match=r"model 'gpt-9' on card 'L40S'; known pairs: llama-3.1-8b/H100-80GB"):
        find_pair(bundled_pairs(), "gpt-9", "L40S")
