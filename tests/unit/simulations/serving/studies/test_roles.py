"""One object with two roles against two objects: the study's verdict, and a run of each."""

import pytest
from click.testing import CliRunner

from simulations.serving.engine.hardware import bundled_pairs, find_pair
from simulations.serving.loads.patterns import parse_pattern
from simulations.serving.studies import roles
from simulations.serving.studies.roles import CONTENDERS, ONE, TWO, Mean, first_replicas, run, verdict


def mean(attainment: float, hours: float) -> Mean:
    return Mean(attainment, attainment, 1 - attainment, hours / 2, hours / 2)


@pytest.mark.parametrize(
    ("one", "other", "word"),
    [
        pytest.param(mean(0.985, 8.0), mean(0.985, 10.0), "reached", id="a fifth fewer"),
        pytest.param(mean(0.985, 9.5), mean(0.985, 10.0), "missed", id="a twentieth fewer"),
        pytest.param(mean(0.97, 8.0), mean(0.985, 10.0), "missed", id="fewer, and fewer served"),
        pytest.param(mean(0.981, 8.0), mean(0.999, 10.0), "reached", id="as many as the objective asks for"),
        pytest.param(mean(0.96, 8.0), mean(0.95, 10.0), "reached", id="more than the other, who misses it"),
        pytest.param(mean(0.99, 11.0), mean(0.99, 10.0), "missed", id="more hours"),
    ],
)
def test_when_the_goal_is_reached(one: Mean, other: Mean, word: str) -> None:
    assert verdict("load", one, "other", other).endswith(f"the goal is {word}")


def test_the_price_of_prefill_is_known_before_prompts_wait() -> None:
    """Two objects count requests until a queue has told what a prompt costs; one object knows it from the first prompts on."""
    trace = parse_pattern("pattern:steady,rate=2,hours=0.35,lengths=swinging", 1)
    one, two = (run(trace, who, 1, cards=40, gigabytes_per_second=25.0) for who in (ONE, TWO))
    assert one.attainment > 0.95
    assert two.attainment < one.attainment


def test_a_slow_link_is_seen_in_the_time_to_the_first_token() -> None:
    trace = parse_pattern("pattern:steady,rate=1,hours=0.1,lengths=swinging", 1)
    fast, slow = (run(trace, ONE, 1, cards=8, gigabytes_per_second=speed) for speed in (25.0, 0.5))
    assert 0.005 < fast.transfer_seconds < 0.1 < slow.transfer_seconds
    assert slow.late_first > fast.late_first


def test_both_roles_begin_with_what_they_need() -> None:
    pair = find_pair(bundled_pairs(), *roles.MODEL)
    prompts, outputs = (
        first_replicas(parse_pattern(f"pattern:steady,rate=4,hours=0.1,lengths={lengths}", 1), pair)
        for lengths in ("extraction", "reasoning")
    )
    assert prompts[0] > prompts[1]
    assert outputs[0] < outputs[1]


def test_the_command_prints_whether_the_goal_holds() -> None:
    said = CliRunner().invoke(
        roles.main, ["--seeds", "1", "--cards", "8", "--load", "steady,rate=0.5,hours=0.1,lengths=swinging"]
    )
    assert said.exit_code == 0, said.exception
    assert all(contender.title in said.stdout for contender in CONTENDERS)
    assert said.stdout.count("the goal is") == 2
