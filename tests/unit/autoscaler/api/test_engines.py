"""The metric names in the engine table are those that the engines really export."""

import itertools
import json
from dataclasses import fields
from typing import Any

import pytest
import yaml

from autoscaler.api.engines import default_signals, exports, fallback
from autoscaler.law.inputs import SignalKind
from headroom.domain.engines import ENGINES, HISTOGRAMS, Engine, Metric, NameMapError, renamed
from tests.paths import DEPLOY, FIXTURES

RECORDED = FIXTURES / "engines"


def fixtures_of(engine: str) -> list[dict[str, Any]]:
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
        instead = fallback(engine)
        for signal in (*default_signals(engine), *([instead] if instead else [])):
            assert exports(engine, signal.kind), f"{engine.name}: {signal.kind}"


def test_engines_and_signals_of_the_table_are_those_of_the_crd() -> None:
    crd = yaml.safe_load((DEPLOY / "base" / "crd-inferenceautoscalers.yaml").read_text(encoding="utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert spec["engine"]["enum"] == list(ENGINES)
    assert spec["signals"]["items"]["properties"]["type"]["enum"] == list(SignalKind)


class TestNameMaps:
    """kserve#5208 (L10), ray#52719 (L11): the names that a platform gives the engine's metrics."""

    @pytest.mark.parametrize(
        ("pairs", "names"),
        [
            ([("vllm:*", "kserve_vllm:*")], ("kserve_vllm:num_requests_running", "vllm:num_requests_running")),
            ([("vllm:*", "vllm_*")], ("vllm_num_requests_running", "vllm:num_requests_running")),
            ([("vllm:num_requests_running", "busy")], ("busy", "vllm:num_requests_running")),
            ([("sglang:*", "x_*")], ("vllm:num_requests_running",)),
        ],
    )
    def test_a_name_of_the_map_goes_before_the_published_one(
        self, pairs: list[tuple[str, str]], names: tuple[str, ...]
    ) -> None:
        assert renamed(ENGINES["vllm"], pairs).running.names == names

    def test_counters_without_their_ending(self) -> None:
        assert renamed(ENGINES["vllm"], [("vllm:*_total", "vllm:*")]).prompt_tokens.names[0] == "vllm:prompt_tokens"

    @pytest.mark.parametrize("pair", [("", "x"), ("x", ""), ("a*", "b"), ("a", "b*"), ("a*b*", "c*d*")])
    def test_entries_that_say_nothing_are_refused(self, pair: tuple[str, str]) -> None:
        with pytest.raises(NameMapError):
            renamed(ENGINES["vllm"], [pair])

    @pytest.mark.parametrize(
        "pair",
        [
            ("vllm:num_requests_running", 'x"} or up{a="'),
            ("vllm:num_requests_running", "x\\"),
            ("vllm:num_requests_running", "x|up"),
            ("vllm:num_requests_running", "a b"),
            ("vllm:num_requests_running", "7x"),
            ("vllm:*", "é:*"),
            ("vllm:e*", "*"),
        ],
    )
    def test_what_is_no_name_of_a_metric_is_refused(self, pair: tuple[str, str]) -> None:
        """It would break the query that all objects share, or ask for what is not theirs."""
        with pytest.raises(NameMapError, match="no name of a metric"):
            renamed(ENGINES["vllm"], [pair])


def test_what_llama_cpp_counts_while_six_requests_share_its_four_slots() -> None:
    """Requests are seen at once, in slots or deferred; tokens of an answer are counted when it ends (`counts_at_end`)."""
    (fixture,) = fixtures_of("llama.cpp")
    load = fixture["under_load"]
    samples = load["samples"]
    series = {name: [sample[name] for sample in samples] for name in samples[0]}
    in_flight = [sum(pair) for pair in zip(series["requests_processing"], series["requests_deferred"], strict=True)]
    assert max(series["requests_processing"]) == load["slots"]
    assert max(in_flight) == load["at_once"]
    assert in_flight[0] == in_flight[-1] == 0
    for name in (name for name in series if name.endswith("_total")):
        assert series[name] == sorted(series[name]), f"{name} is a counter"
    assert series["tokens_predicted_total"][-1] == load["tokens"]
    steps = list(itertools.pairwise(samples))
    worked = [b for a, b in steps if b["n_decode_total"] > a["n_decode_total"]]
    counted = [b for a, b in steps if b["tokens_predicted_total"] > a["tokens_predicted_total"]]
    assert len(counted) <= load["answered"] < len(worked)
    assert ENGINES["llama.cpp"].counts_at_end


def test_what_torchserve_counts_while_twelve_requests_meet_one_worker() -> None:
    """Its latency contains the wait: it is the number inside by itself, and the wait is not added once more."""
    (load,) = [fixture["under_load"] for fixture in fixtures_of("torchserve") if "under_load" in fixture]
    before, after = load["samples"][0], load["samples"][-1]
    torchserve = ENGINES["torchserve"]
    waited, inside = (
        sum(after[name] - before[name] for name in metric.names) * metric.scale
        for metric in (torchserve.waiting_seconds, torchserve.total_seconds)
    )
    assert waited == pytest.approx(sum(range(load["at_once"])) * load["seconds_each"], rel=0.1)
    assert inside == pytest.approx(waited + load["at_once"] * load["seconds_each"], rel=0.1)


def test_what_mlserver_counts_while_twelve_requests_meet_a_batch_of_four() -> None:
    """It has no preset: docs/autoscaling.md names the one gauge that tells what is inside."""
    (load,) = [fixture["under_load"] for fixture in fixtures_of("mlserver")]
    in_progress = [sample["rest_server_requests_in_progress"] for sample in load["samples"]]
    assert in_progress == [0, load["at_once"] - load["batch"], 0, 0]


def test_what_triton_counts_while_twelve_requests_meet_a_batch_of_four() -> None:
    """Pending requests are those that no batch has taken; the time that they waited is counted when they end."""
    (load,) = [fixture["under_load"] for fixture in fixtures_of("triton") if "under_load" in fixture]
    busy, after = load["samples"]
    triton = ENGINES["triton"]
    (pending,), (queued,), (total,) = triton.waiting.names, triton.waiting_seconds.names, triton.total_seconds.names
    assert (busy[pending], after[pending]) == (load["at_once"] - load["batch"], 0)
    assert busy[queued] == busy[total] == 0
    assert after["nv_inference_request_success"] == load["at_once"]
    seconds = [after[name] * triton.waiting_seconds.scale for name in (queued, total)]
    assert load["at_once"] * load["batch_seconds"] <= seconds[1] - seconds[0] < seconds[1]


def test_what_a_nim_counts_after_34_requests() -> None:
    """The time per output token is counted for each token but a request's first, so that it prices tokens as vLLM's does."""
    (fixture,) = fixtures_of("nim")
    after, nim = fixture["after_requests"], ENGINES["nim"]
    (answers,), (tokens,), (between,) = nim.finished.names, nim.output_tokens.names, nim.token_count.names
    assert after[between] == after[tokens] - after[answers]
    (ended,) = nim.ended_output_tokens.names
    assert after[ended] == after[tokens]


def test_requests_without_a_handle_wait_in_lmdeploy() -> None:
    """Its API server gives `max_batch_size` handles: the queue in front of them counts, not the engine's behind them."""
    lmdeploy = ENGINES["lmdeploy"]
    assert lmdeploy.waiting.names[0] == "lmdeploy:num_api_requests_waiting"
    assert lmdeploy.running.names[0] == "lmdeploy:num_api_requests_routed"


def test_trtllm_tells_of_a_request_when_it_ends() -> None:
    trtllm = ENGINES["trtllm"]
    assert trtllm.counts_at_end
    assert trtllm.per_output_token == trtllm.inter_token
