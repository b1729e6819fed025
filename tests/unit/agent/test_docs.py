"""The agent's page lists every metric and every reason, and no others."""

import dataclasses
import re

import yaml
from prometheus_client import CollectorRegistry

from agent.cards.verdicts import APPLICATION_XIDS
from agent.energy.books import Account
from agent.energy.tariff import Tariff, parse_tariff
from agent.metrics import AgentMetrics
from agent.settings import AgentSettings
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "agent.md").read_text()


def exported_metrics() -> set[str]:
    registry = CollectorRegistry()
    AgentMetrics(registry, node="n1", account=Account(longest_gap_seconds=30.0), tariff=Tariff())
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in registry.collect()}


def test_every_exported_metric_is_explained_and_every_explained_one_exported() -> None:
    table = PAGE.partition("## Metrics")[2].partition("## Without a card")[0]
    explained = {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"headroom_\w+", line.split(" | ")[0])
    }
    assert explained == exported_metrics()


def test_settings_that_the_page_names_exist() -> None:
    fields = {field.name for field in dataclasses.fields(AgentSettings)}
    named = {flag.replace("-", "_") for flag in re.findall(r"`--([a-z-]+)", PAGE)}
    assert named - fields == {"config"}
    assert frozenset(AgentSettings().ignored_xids) == APPLICATION_XIDS
    assert ", ".join(map(str, sorted(APPLICATION_XIDS))) in PAGE


def test_the_tariff_on_the_usage_page_is_a_tariff() -> None:
    text = (ROOT / "docs" / "usage.md").read_text()
    tariff = parse_tariff(yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]))
    assert tariff.price_of("NVIDIA-L4") == 0.8
    deployed = parse_tariff(yaml.safe_load((ROOT / "deploy" / "base" / "settings" / "tariff.yaml").read_text()))
    assert deployed == Tariff(currency="EUR")
