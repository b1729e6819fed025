"""What an object says of the prices that it has learned."""

import math
from typing import Any

import pytest

from autoscaler.api.resource import DECODER
from autoscaler.law.memory.learned import Learned
from autoscaler.law.sizing.prices import CostSettings, CostState, Iterations, learn
from autoscaler.observation.lessons import Lessons
from autoscaler.tick.explain import explain
from autoscaler.tick.memory import samples_of
from headroom.wire import encode
from tests.fakes.fleet import LONG_AGO, Fleet
from tests.fakes.scraping import vllm

NOT_APART = "the two prices cannot be told apart yet"


def taught(*, one_mix: bool) -> CostState:
    """The sums after 120 iterations, whose prompt tokens go with the batch or do not."""
    state = CostState()
    for step in range(120):
        batch = 4.0 + step * 7 % 37
        prompt = 5 * batch if one_mix else 10.0 + step * 11 % 41
        state = learn(state, Iterations(0.02 + 0.00025 * batch + 0.00015 * prompt, batch, prompt), CostSettings())
    return state


def object_with(status: dict[str, Any], **spec: Any) -> Any:
    whole = {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}, "engine": "vllm", "maxReplicas": 9, **spec}
    metadata = {"name": "llm", "namespace": "default", "uid": "llm", "generation": 1}
    return DECODER.decode(encode({"metadata": metadata, "spec": whole, "status": status}))


async def learned_by(lessons: Lessons, **spec: Any) -> dict[str, Any]:
    """What the status says was learned, by a leader that takes over from another."""
    fleet = Fleet()
    fleet.deployment(replicas=2)
    for pod in fleet.pods():
        fleet.scrape(pod, vllm(6.0, kv_cache=0.2, per_second=4.0, since=LONG_AGO))
    before = {"learned": {"samples": samples_of(Learned(), lessons)}}
    fleet.world.on_resource("MODIFIED", "default/llm", object_with(before, **spec))
    await fleet.tick(2)
    found: dict[str, Any] = fleet.status()["learned"]
    return found


async def test_prices_are_told_with_what_they_may_be_wrong_by() -> None:
    learned = await learned_by(Lessons(cost=taught(one_mix=False)))
    assert 0 < float(learned["promptTokenError"]) < 0.5
    text = explain(object_with({"learned": learned}))
    percent = f"{100 * float(learned['promptTokenError']):.0f} %"
    assert f"a prompt token costs {learned['secondsPerPromptToken']} GPU seconds, give or take {percent}" in text
    assert NOT_APART not in text


async def test_prices_that_one_mix_of_tokens_cannot_tell_apart_say_so() -> None:
    learned = await learned_by(Lessons(cost=taught(one_mix=True)))
    assert float(learned["outputTokenError"]) > 0.5
    text = explain(object_with({"learned": learned}))
    assert NOT_APART in text


async def test_prices_that_the_object_states_are_taken_as_they_are() -> None:
    work = {"secondsPerPromptToken": "0.0001", "secondsPerOutputToken": "0.0004"}
    learned = await learned_by(Lessons(cost=taught(one_mix=True)), work=work)
    assert learned["secondsPerPromptToken"] == "0.0001"
    assert "promptTokenError" not in learned


@pytest.mark.parametrize("error", ["much", None, str(math.nan), {}])
def test_an_error_that_is_no_number_is_left_out(error: Any) -> None:
    learned = {"secondsPerPromptToken": "0.0001", "promptTokenError": error}
    lines = explain(object_with({"learned": learned})).splitlines()
    assert any(line.endswith("a prompt token costs 0.0001 GPU seconds") for line in lines)
