"""How well the price of a token is known."""

import math
import random
from collections.abc import Callable

import pytest

from autoscaler.law.sizing.prices import CostSettings, CostState, Doubt, Iterations, doubt, fit, learn

BASE, PER_REQUEST, PER_PROMPT_TOKEN = 0.02, 0.00025, 0.00015
SETTINGS = CostSettings()
Mix = Callable[[random.Random, float], float]
"""Prompt tokens of an iteration with such a batch."""


def one_mix(dice: random.Random, batch: float) -> float:
    return 5 * batch


def any_mix(dice: random.Random, batch: float) -> float:
    return dice.uniform(0, 10) * batch


def taught(mix: Mix, *, samples: int = 200, noise: float = 0.0, prompt_price: float = PER_PROMPT_TOKEN) -> CostState:
    dice, state = random.Random(7), CostState()
    for _ in range(samples):
        batch = dice.uniform(4, 40)
        prompt = mix(dice, batch)
        seconds = BASE + PER_REQUEST * batch + prompt_price * prompt
        state = learn(state, Iterations(seconds * dice.uniform(1 - noise, 1 + noise), batch, prompt), SETTINGS)
    return state


def test_prices_are_known_where_the_mix_of_tokens_varies() -> None:
    known = doubt(taught(any_mix), SETTINGS)
    assert known.per_prompt_token < 0.1
    assert known.per_output_token < 0.1


def test_prices_are_not_known_apart_where_tokens_come_in_one_mix() -> None:
    """The fit is good, for this mix; what a prompt token costs by itself nobody can say."""
    state = taught(one_mix)
    assert fit(state, SETTINGS) is not None
    unknown = doubt(state, SETTINGS)
    assert unknown.per_prompt_token > 0.5
    assert unknown.per_output_token > 0.5


def test_a_shift_of_the_mix_tells_them_apart() -> None:
    state = taught(one_mix)
    for batch in (5.0, 10.0, 20.0, 30.0) * 10:
        state = learn(state, Iterations(BASE + PER_REQUEST * batch + PER_PROMPT_TOKEN * batch, batch, batch), SETTINGS)
    assert doubt(state, SETTINGS).per_prompt_token < 0.2


def test_noise_and_few_samples_are_doubt() -> None:
    quiet, noisy = doubt(taught(any_mix, noise=0.02), SETTINGS), doubt(taught(any_mix, noise=0.3), SETTINGS)
    assert noisy.per_prompt_token > 3 * quiet.per_prompt_token
    few = doubt(taught(any_mix, samples=12, noise=0.02), SETTINGS)
    assert few.per_output_token > quiet.per_output_token


def test_the_stated_error_is_that_of_the_found_price() -> None:
    """Of many fits on noisy samples the found price lies within two standard errors of the truth, nearly always."""
    dice, within = random.Random(3), 0
    for _ in range(100):
        state = CostState()
        for _ in range(60):
            batch, prompt = dice.uniform(4, 40), dice.uniform(0, 200)
            seconds = BASE + PER_REQUEST * batch + PER_PROMPT_TOKEN * prompt + dice.gauss(0, 0.003)
            state = learn(state, Iterations(seconds, batch, prompt), SETTINGS)
        found = fit(state, SETTINGS)
        assert found is not None
        within += abs(found[2] - PER_PROMPT_TOKEN) < 2 * doubt(state, SETTINGS).per_prompt_token * found[2]
    assert within >= 85


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(CostState(), id="nothing seen"),
        pytest.param(taught(any_mix, samples=2), id="fewer samples than prices"),
        pytest.param(taught(lambda dice, batch: 0.0), id="no prompt token ever"),
    ],
)
def test_what_samples_cannot_say_is_without_bound(state: CostState) -> None:
    assert doubt(state, SETTINGS) == Doubt(math.inf, math.inf)


def test_a_price_that_came_out_below_zero_is_not_known() -> None:
    assert doubt(taught(any_mix, prompt_price=-PER_PROMPT_TOKEN / 10), SETTINGS).per_prompt_token == math.inf
