"""`spec.objective` as users write it."""

from typing import Any

import pytest

from autoscaler.api.resource import DECODER, SpecError, Target, read
from autoscaler.law.inputs import SignalKind
from autoscaler.law.spec import Objective
from headroom.wire import encode


def target(objective: Any = None, *, usual_objectives: bool = False, **spec: Any) -> Target:
    whole = {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}, "maxReplicas": 8, **spec}
    if objective is not None:
        whole["objective"] = objective
    stored = encode({"metadata": {"name": "llm", "namespace": "ns"}, "spec": whole})
    return read(DECODER.decode(stored), usual_objectives=usual_objectives)


@pytest.mark.parametrize(
    ("engine", "stated", "meant"),
    [
        ("vllm", {}, Objective(2.0, 0.1)),
        ("sglang", {}, Objective(2.0, 0.1)),
        ("tgi", {}, Objective(None, 0.1)),
        ("vllm", {"share": "0.95"}, Objective(2.0, 0.1, share=0.95)),
        ("vllm", {"timeToFirstToken": "500ms"}, Objective(0.5)),
        ("vllm", {"requestLatency": "1m", "share": 0.9}, Objective(None, None, 60.0, 0.9)),
    ],
)
def test_what_is_stated_counts_and_else_the_engines_default(
    engine: str, stated: dict[str, Any], meant: Objective
) -> None:
    assert target(stated, engine=engine).spec.objective == meant


def test_an_object_without_one_is_sized_by_the_target_of_work() -> None:
    assert target().spec.objective is None


@pytest.mark.parametrize(("engine", "meant"), [("vllm", Objective(2.0, 0.1)), ("triton", None)])
def test_an_installation_may_give_everybody_the_default_of_the_engine(engine: str, meant: Objective | None) -> None:
    assert target(usual_objectives=True, engine=engine).spec.objective == meant


@pytest.mark.parametrize(
    ("engine", "stated", "words"),
    [
        (
            "vllm",
            {"timeToFirstToken": "soon"},
            "spec.objective.timeToFirstToken: 'soon' is not a duration such as 2s or 100ms",
        ),
        ("vllm", {"interTokenLatency": "0s"}, "spec.objective.interTokenLatency: '0s' is not above 0"),
        ("vllm", {"share": "98"}, "spec.objective.share: '98' is not a share of requests from 0.5 to 0.9999"),
        ("vllm", {"share": "most"}, "spec.objective.share: 'most' is not a number"),
        ("tgi", {"timeToFirstToken": "2s"}, "engine tgi does not tell this latency"),
        ("triton", {}, "'triton' is an engine without token counters"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_field_and_value(engine: str, stated: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match="ns/llm") as error:
        target(stated, engine=engine)
    assert words in str(error.value)


def test_work_is_read_for_an_objective_whatever_the_signals() -> None:
    signals = [{"name": "waiting", "type": "queue", "target": 5}]
    kinds = [signal.kind for signal in target({}, signals=signals).spec.signals]
    assert kinds == [SignalKind.WORK, SignalKind.QUEUE]


def test_minutes_meant_as_milliseconds_are_said() -> None:
    assert "m stands for minutes and ms for milliseconds" in "; ".join(target({"timeToFirstToken": "500m"}).mistakes)
