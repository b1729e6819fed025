"""The names in the gateway table are those that the gateways export, and the queries ask for one pool or model alone."""

import json

import pytest

from headroom.domain.gateways import DYNAMO, GATEWAYS, LLM_D, GatewayKind, inside_query, known_query, waiting_query
from headroom.prometheus.promql import with_matchers
from tests.paths import FIXTURES


@pytest.mark.parametrize("name", GATEWAYS)
def test_every_name_is_exported_by_a_version_on_record(name: str) -> None:
    loaded = [json.loads(path.read_text()) for path in sorted((FIXTURES / "gateways").glob("*.json"))]
    exported = {metric for fixture in loaded if fixture["gateway"] == name for metric in fixture["metrics"]}
    kind = GATEWAYS[name]
    for metric in (*kind.waiting, *kind.inside, *kind.alive, *kind.known):
        assert metric in exported, metric


def test_names_of_two_generations_are_never_added() -> None:
    """llm-d exports the old beside the new ones: the first that is there counts."""
    query = waiting_query(LLM_D, "chat", "ai", offline=True)
    *generations, alive = query.split(" or ")
    assert len(generations) == 3
    assert all(part.startswith("sum(max by (") for part in generations)
    assert alive.startswith("0 * max(")


def test_offline_work_is_left_out_unless_asked_for() -> None:
    assert 'priority!~"-.*"' in waiting_query(LLM_D, "chat", "ai", offline=False)
    assert "priority!" not in waiting_query(LLM_D, "chat", "ai", offline=True)
    assert "priority" not in waiting_query(DYNAMO, "chat", "ai", offline=False)


@pytest.mark.parametrize("part", ["chat", 'a"} or vector(9) #', "back\\slash", "line\nbreak"])
@pytest.mark.parametrize("kind", GATEWAYS.values(), ids=GATEWAYS)
def test_whatever_a_pool_is_called_the_query_is_one_expression(kind: GatewayKind, part: str) -> None:
    for query in (
        waiting_query(kind, part, "ai", offline=False),
        inside_query(kind, part, "ai"),
        known_query(kind, "ai"),
    ):
        if query:
            assert "\n" not in query
            with_matchers(query, ['cluster="a"'])
