"""The alert rules: promtool finds them sound, and they speak up when they should; every metric they name is exported."""

import re
import subprocess

import yaml
from prometheus_client import CollectorRegistry

from agent.energy.books import Account
from agent.energy.tariff import Tariff
from agent.metrics import AgentMetrics
from autoscaler.metrics import AutoscalerMetrics
from scheduler.cluster.state import ClusterState
from scheduler.cluster.view import StateView
from scheduler.metrics import FleetCollector, SchedulerMetrics
from scheduler.placement.policies.registry import policy_by_name
from tests.paths import ROOT

RULES = ROOT / "deploy" / "base" / "alerts.yaml"


def promtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_rules_are_sound() -> None:
    result = promtool("check", "rules", str(RULES))
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_rules_speak_up_when_they_should() -> None:
    tests = sorted(str(path) for path in (ROOT / "tests" / "alerts").glob("*.yaml"))
    assert len(tests) > 1
    result = promtool("test", "rules", *tests)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_metric_in_the_rules_is_one_that_a_daemon_exports() -> None:
    agents, schedulers, autoscalers = CollectorRegistry(), CollectorRegistry(), CollectorRegistry()
    AutoscalerMetrics(autoscalers)
    AgentMetrics(agents, node="n1", account=Account(longest_gap_seconds=30.0), tariff=Tariff())
    metrics = SchedulerMetrics(schedulers)
    state = ClusterState(policy_by_name("fgd"), metrics, monotonic=lambda: 0.0)
    schedulers.register(FleetCollector(StateView(state), lambda: 0.0))
    exported = set()
    for family in (*agents.collect(), *schedulers.collect(), *autoscalers.collect()):
        exported.add(f"{family.name}_total" if family.type == "counter" else family.name)
    groups = yaml.safe_load(RULES.read_text())["groups"]
    expressions = " ".join(rule["expr"] for group in groups for rule in group["rules"])
    named = set(re.findall(r"\bheadroom_\w+", expressions))
    assert len(named) > 8
    assert named <= exported
