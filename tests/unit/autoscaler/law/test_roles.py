"""What one role's decision leaves to the other."""

from dataclasses import replace

import pytest

from autoscaler.law.decide import TargetState, decide
from autoscaler.law.inputs import Freshness, Observation, PodFacts, Reading, Rollout, SignalKind
from autoscaler.law.rules.roles import part_of
from autoscaler.law.sizing.roles import Part
from autoscaler.law.spec import Scaling, SignalSpec, TargetSpec

SPEC = TargetSpec(min_replicas=1, max_replicas=9, signals=(SignalSpec(SignalKind.RUNNING, 10.0, "running"),))


def seen(running: float, replicas: int = 6, state: Freshness = Freshness.FRESH) -> Observation:
    return Observation(replicas, PodFacts(ready=replicas), (Reading("running", state, running),))


def part(observation: Observation, spec: TargetSpec = SPEC) -> Part:
    return part_of(spec, observation, decide(spec, TargetState(), observation, 0.0))


def test_a_role_that_is_kept_for_later_can_do_with_fewer() -> None:
    """Its window is not full yet, so its own law keeps all six."""
    assert part(seen(19.0)) == Part(6, 6, 2)


def test_a_role_that_grows_needs_all_it_has() -> None:
    grown = part(seen(80.0))
    assert (grown.before, grown.wanted, grown.growth) == (6, 8, 2)


def test_never_below_the_minimum() -> None:
    assert part(seen(0.0), replace(SPEC, min_replicas=3)).least == 3


@pytest.mark.parametrize(
    ("observation", "spec"),
    [
        pytest.param(seen(19.0, state=Freshness.STALE), SPEC, id="stale"),
        pytest.param(seen(19.0, state=Freshness.PARTIAL), SPEC, id="partial"),
        pytest.param(replace(seen(19.0), rollout=Rollout.PROGRESSING), SPEC, id="a rollout"),
        pytest.param(replace(seen(19.0), pods=PodFacts(starting=(5.0,) * 6)), SPEC, id="no pod is ready"),
        pytest.param(seen(19.0), replace(SPEC, down=Scaling(disabled=True)), id="scaleDown is disabled"),
    ],
)
def test_what_is_not_known_is_not_given_up(observation: Observation, spec: TargetSpec) -> None:
    assert part(observation, spec).least is None
