"""`spec.gateway` as people write it."""

from typing import Any

import pytest
import yaml

from autoscaler.api.gateway import INSIDE, KNOWN, WAITING
from autoscaler.api.query_guard import is_closed
from autoscaler.api.resource import DECODER, SpecError, Target, read
from headroom.domain.gateways import GATEWAYS
from headroom.wire import encode
from tests.paths import DEPLOY


def target(**spec: Any) -> Target:
    whole = {"scaleTargetRef": {"kind": "Deployment", "name": "chat"}, "maxReplicas": 4, **spec}
    return read(DECODER.decode(encode({"metadata": {"namespace": "ai", "name": "chat"}, "spec": whole})))


def test_an_object_without_a_gateway_asks_for_none() -> None:
    assert target().gateway is None


def test_the_crd_knows_the_gateways() -> None:
    crd = yaml.safe_load((DEPLOY / "base" / "crd-inferenceautoscalers.yaml").read_text(encoding="utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert spec["gateway"]["properties"]["type"]["enum"] == list(GATEWAYS)


def test_the_gateway_is_looked_for_in_the_objects_namespace_unless_it_says_another() -> None:
    ask = target(gateway={"type": "llm-d", "pool": "chat"}).gateway
    other = target(gateway={"type": "llm-d", "pool": "chat", "namespace": "inference-gateway"}).gateway
    assert ask is not None
    assert other is not None
    assert 'namespace=~"ai|"' in ask.queries[WAITING]
    assert 'namespace=~"inference\\\\-gateway|"' in other.queries[WAITING]
    assert (INSIDE in ask.queries, KNOWN in ask.queries) == (False, True)
    assert all(is_closed(query) for query in (*ask.queries.values(), *other.queries.values()))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"gateway": {"type": "istio"}}, "spec.gateway.type: 'istio' is not one of llm-d, dynamo"),
        ({"gateway": {"type": "llm-d"}}, "spec.gateway.pool: '' is empty"),
        (
            {"gateway": {"type": "llm-d", "pool": "a", "model": "b"}},
            "spec.gateway.model: 'b' belongs to other gateways",
        ),
        ({"gateway": {"type": "dynamo", "pool": "a"}}, "spec.gateway.pool: 'a' belongs to other gateways than dynamo"),
        ({"gateway": {"type": "dynamo"}}, "spec.gateway.model: '' is empty"),
        ({"gateway": {"type": "llm-d", "pool": "a", "offline": "Maybe"}}, "is not Ignore or Count"),
        ({"minReplicas": 0, "scaleToZero": {}}, "is empty, without a gateway"),
        (
            {"minReplicas": 0, "scaleToZero": {}, "gateway": {"type": "dynamo", "model": "m"}},
            "is empty, and dynamo keeps no requests for a target without pods",
        ),
        (
            {
                "gateway": {"type": "llm-d", "pool": "a"},
                "signals": [{"name": "gateway", "type": "queue", "target": 4}],
            },
            "'gateway' is the name of what waits in the gateway",
        ),
    ],
)
def test_what_cannot_be_is_named_with_field_and_value(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as raised:
        target(**spec)
    assert words in str(raised.value)


def test_llm_d_alone_can_bring_a_target_back_from_zero() -> None:
    found = target(minReplicas=0, scaleToZero={}, gateway={"type": "llm-d", "pool": "chat"})
    assert found.spec.scale_to_zero is not None
    assert found.spec.scale_to_zero.query == ""


def test_fields_of_a_later_version_are_passed_over() -> None:
    """A daemon survives objects that are newer than itself."""
    assert target(aFieldOfTomorrow={"deep": [1, None]}, gateway={"type": "llm-d", "pool": "a", "mood": "good"}).gateway
