"""What the answers of a gateway come to."""

import pytest

from autoscaler.api.gateway import INSIDE, KNOWN, WAITING, GatewayAsk, answered
from autoscaler.law.inputs import Freshness, Reading

LLM_D = GatewayAsk("llm-d", "pool chat in namespace ai", {WAITING: "w", KNOWN: "k"})
DYNAMO = GatewayAsk("dynamo", "model m in namespace ai", {WAITING: "w", KNOWN: "k", INSIDE: "i"}, holds_at_zero=False)
EMPTY = Reading("", Freshness.EMPTY)
IN_PODS = Reading("running", Freshness.FRESH, 30.0)
SILENT = Reading("running", Freshness.STALE, detail="silent")


def fresh(value: float) -> Reading:
    return Reading("", Freshness.FRESH, value, 3.0)


@pytest.mark.parametrize(
    ("ask", "answers", "in_pods", "state", "waiting", "reason"),
    [
        pytest.param(LLM_D, {WAITING: fresh(12)}, IN_PODS, "fresh", 12, "", id="llm-d holds what no pod has"),
        pytest.param(LLM_D, {WAITING: fresh(0)}, None, "fresh", 0, "", id="nothing waits"),
        pytest.param(LLM_D, {}, IN_PODS, "empty", 0, "GatewayAway", id="the gateway is away"),
        pytest.param(LLM_D, {KNOWN: fresh(3)}, IN_PODS, "empty", 0, "PoolUnknown", id="the pool is gone"),
        pytest.param(LLM_D, {WAITING: Reading("", Freshness.ERROR, detail="502")}, None, "error", 0, "NoAnswer", id="no answer"),
        pytest.param(LLM_D, {WAITING: fresh(-1)}, None, "error", 0, "NoAnswer", id="below 0"),
        pytest.param(LLM_D, {WAITING: fresh(1e18)}, None, "error", 0, "NoAnswer", id="no count of requests"),
        pytest.param(DYNAMO, {WAITING: fresh(9), INSIDE: fresh(34)}, IN_PODS, "fresh", 4, "", id="30 of 34 are in pods"),
        pytest.param(DYNAMO, {WAITING: fresh(9), INSIDE: fresh(90)}, IN_PODS, "fresh", 9, "", id="no more than wait"),
        pytest.param(DYNAMO, {WAITING: fresh(9), INSIDE: fresh(28)}, IN_PODS, "fresh", 0, "", id="scraped a moment apart"),
        pytest.param(DYNAMO, {WAITING: fresh(9)}, IN_PODS, "partial", 0, "", id="how many are inside is not known"),
        pytest.param(
            DYNAMO, {WAITING: fresh(9), INSIDE: fresh(34)}, SILENT, "partial", 0, "", id="silent pods"
        ),
        pytest.param(DYNAMO, {WAITING: fresh(9), INSIDE: fresh(9)}, None, "fresh", 9, "", id="no pod is ready"),
        pytest.param(DYNAMO, {KNOWN: fresh(2)}, None, "empty", 0, "NoWorkers", id="no workers, no model"),
        pytest.param(DYNAMO, {KNOWN: fresh(2)}, IN_PODS, "empty", 0, "PoolUnknown", id="the model is gone"),
    ],
)  # fmt: skip
def test_answers(
    ask: GatewayAsk, answers: dict[str, Reading], in_pods: Reading | None, state: str, waiting: float, reason: str
) -> None:
    found = answered(ask, lambda name: answers.get(name, EMPTY), in_pods)
    assert (found.state, found.waiting, found.reason) == (state, waiting, reason)
    assert found.state is Freshness.FRESH or found.detail
