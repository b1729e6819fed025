"""Forty requests before a model at zero."""

import pytest
from click.testing import CliRunner

from simulations.serving.engine.hardware import bundled_pairs, find_pair
from simulations.serving.studies import from_zero
from simulations.serving.studies.from_zero import CONTENDERS, REQUESTS, right_number, run

PAIR = find_pair(bundled_pairs(), "llama-3.1-8b", "L40S")
BY_TITLE = {contender.title: contender for contender in CONTENDERS}


def test_one_replica_is_right_for_forty_chats() -> None:
    assert right_number(PAIR, "chat", 1) == 1


@pytest.mark.parametrize(
    ("title", "woken"),
    [
        ("Headroom, gateway, first request ever", 3),  # 16 each, while nothing is known
        ("Headroom, activation query", 1),
        ("KEDA on waiting requests", 1),
    ],
)
def test_who_wakes_how_many(title: str, woken: int) -> None:
    result = run(PAIR, "chat", BY_TITLE[title], seed=1)
    assert result.woken == woken
    assert 0 < result.first_seconds < result.last_seconds


def test_what_was_learned_of_long_prompts_wakes_more() -> None:
    learned = run(PAIR, "documents", BY_TITLE["Headroom, gateway, has served before"], seed=1)
    assert learned.woken >= right_number(PAIR, "documents", 1) > 3


def test_the_command_prints_what_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_zero, "LOADS", (("llama-3.1-8b", "L40S", "chat"),))
    monkeypatch.setattr(from_zero, "CONTENDERS", CONTENDERS[1:3])
    said = CliRunner().invoke(from_zero.main, ["--seeds", "1"])
    assert said.exit_code == 0, said.exception
    assert "chat: the right number or more at once in 1 of 1 runs" in said.stdout
    assert f"all {REQUESTS} first tokens" in said.stdout


def test_long_outputs_are_decoded_side_by_side() -> None:
    """With their whole decoding counted it would be eight; three are enough."""
    learned = run(PAIR, "agents", BY_TITLE["Headroom, gateway, has served before"], seed=1)
    assert right_number(PAIR, "agents", 1) <= learned.woken <= 5
