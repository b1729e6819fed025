"""The metric names in the engine table are those that the engines really export."""

import json
from dataclasses import fields

import pytest

from autoscaler.api.engines import ENGINES, Engine, Metric
from autoscaler.api.resource import exports
from tests.paths import FIXTURES

RECORDED = FIXTURES / "engines"
HISTOGRAMS = {"time_to_first_token", "inter_token", "request"}


def fixtures_of(engine: str) -> list[dict[str, object]]:
    loaded = [json.loads(path.read_text()) for path in sorted(RECORDED.glob("*.json"))]
    return [fixture for fixture in loaded if fixture["engine"] == engine]


def metrics_of(engine: Engine) -> list[tuple[str, Metric]]:
    found = [(field.name, getattr(engine, field.name)) for field in fields(engine)]
    return [(name, value) for name, value in found if isinstance(value, Metric) and value]


@pytest.mark.parametrize("name", sorted(set(ENGINES) - {"custom", "fastchat"}))
def test_every_name_is_exported_by_a_version_on_record(name: str) -> None:
    exported = {metric for fixture in fixtures_of(name) for metric in fixture["metrics"]}
    for fact, metric in metrics_of(ENGINES[name]):
        for spelled in metric.names:
            wanted = f"{spelled}_bucket" if fact in HISTOGRAMS else spelled
            assert wanted in exported, f"{name}: {fact} reads {wanted}, which no recorded version exports"


@pytest.mark.parametrize("version", ["vllm-0.33.0", "vllm-0.6.3"])
def test_each_recorded_vllm_has_every_fact_that_work_needs(version: str) -> None:
    exported = json.loads((RECORDED / f"{version}.json").read_text())["metrics"]
    engine = ENGINES["vllm"]
    for fact in ("waiting", "running", "kv_cache", "prompt_tokens", "output_tokens", "token_seconds", "token_count"):
        assert any(name in exported for name in getattr(engine, fact).names), fact


def test_fastchat_counts_running_and_waiting_in_one_number() -> None:
    fixture = fixtures_of("fastchat")[0]
    # Five requests at a worker that serves two at a time.
    assert fixture["worker_get_status"]["queue_length"] == 5
    assert ENGINES["fastchat"].in_flight
    assert not ENGINES["fastchat"].waiting


def test_default_signals_are_exported_by_their_engine() -> None:
    for engine in ENGINES.values():
        for signal in (*engine.defaults, *([engine.fallback] if engine.fallback else [])):
            assert exports(engine, signal.kind), f"{engine.name}: {signal.kind}"
