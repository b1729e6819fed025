"""`headroom estimate`: shapes against what makers state, parts that grow with what is asked, answers to mistakes."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from headroom.commands.estimate.cli import known_models, main, plain_name, shape_of
from headroom.commands.estimate.memory import ENGINES, QUANTISATIONS, Ask, EstimateError, estimate
from headroom.commands.estimate.shapes import ShapeError, read_shape

KNOWN = known_models()
LLAMA = shape_of("llama-3.1-8b")


def ask(**changes: Any) -> Ask:
    values = {
        "quantisation": QUANTISATIONS["bf16"],
        "engine": ENGINES["vllm"],
        "context_tokens": 4096,
        "concurrency": 8,
    }
    return Ask(**{**values, **changes})


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_counted_from_the_shape_are_those_the_maker_states(name: str) -> None:
    counted, stated = read_shape(KNOWN[name], name).parameters / 1e9, KNOWN[name]["stated"]
    assert counted == pytest.approx(stated, rel=0.01)


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("llama-3.1-8b", 131_072),
        ("qwen3-32b", 262_144),
        ("llama-2-7b", 524_288),  # as many KV heads as heads
        ("deepseek-v3", 70_272),  # compressed: 61 layers x (512 + 64) x 2 bytes
    ],
)
def test_bytes_of_a_cached_token(name: str, bytes_per_token: int) -> None:
    assert shape_of(name).kv_bytes(1, 2) == bytes_per_token


def test_a_layer_with_a_window_caches_no_more_than_the_window() -> None:
    gemma = shape_of("gemma-2-9b")
    assert gemma.windowed_layers == 21
    per_layer = 2 * 8 * 256 * 2
    assert gemma.kv_bytes(8192, 2) == per_layer * (21 * 8192 + 21 * 4096)


@given(
    st.sampled_from(sorted(KNOWN)), st.integers(1, 4096), st.integers(1, 64), st.integers(1, 4096), st.integers(0, 64)
)
def test_asking_for_more_never_takes_less(name: str, context: int, concurrency: int, longer: int, more: int) -> None:
    shape = shape_of(name)
    longer = min(context + longer, shape.longest_context)
    small = estimate(shape, ask(context_tokens=min(context, longer), concurrency=concurrency))
    large = estimate(shape, ask(context_tokens=longer, concurrency=concurrency + more))
    assert large.total_mib >= small.total_mib


@given(st.sampled_from(sorted(KNOWN)), st.sampled_from(sorted(QUANTISATIONS)), st.sampled_from(sorted(ENGINES)))
def test_more_cards_never_take_more_weights_or_cache_on_each(name: str, quant: str, engine: str) -> None:
    shape = shape_of(name)
    parts = [
        estimate(
            shape, ask(quantisation=QUANTISATIONS[quant], engine=ENGINES[engine], context_tokens=1024, cards=cards)
        )
        for cards in (1, 2, 4, 8, 16)
        if shape.heads % cards == 0
    ]
    for fewer, more in itertools.pairwise(parts):
        assert more.weights_mib <= fewer.weights_mib
        assert more.cache_mib <= fewer.cache_mib


def test_half_the_bits_take_half_of_the_weights_but_for_the_embeddings() -> None:
    whole = estimate(LLAMA, ask()).weights_mib
    half = estimate(LLAMA, ask(quantisation=QUANTISATIONS["fp8"])).weights_mib
    embeddings = LLAMA.embedding_parameters * 2 / 2**20
    assert half == pytest.approx((whole - embeddings) / 2 + embeddings, abs=2)


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("google/gemma-2-9b-it", "gemma-2-9b"),
        ("mixtral-8x7b", "mixtral-8x7b"),
    ],
)
def test_makers_and_tunings_are_left_out_of_a_name(written: str, known: str) -> None:
    assert plain_name(written) == known


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output if result.exception is None or result.exit_code == 2 else str(
        result.exception
    )


def test_a_config_file_gives_what_the_table_gives(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(KNOWN["qwen2.5-7b"]))
    of_file, of_name = (json.loads(run(name, "-o", "json")[1]) for name in (str(tmp_path), "qwen2.5-7b"))
    assert of_file["perCardMib"] == of_name["perCardMib"]


def test_a_model_of_several_parts_is_read_by_its_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": KNOWN["gemma-3-270m"]}))
    assert shape_of(str(tmp_path)).parameters == shape_of("gemma-3-270m").parameters


def test_the_manifest_lines_stand_in_the_answer() -> None:
    text = run("qwen2.5-7b", "--card", "L40S")[1]
    assert "headroom.dev/vram: 24Gi" in text
    assert "- --gpu-memory-utilization=$(HEADROOM_VRAM_SHARE)" in text
    assert "1 such replica on one card" in text
    assert "tensor-parallel" not in text


def test_a_model_over_several_cards_asks_for_cards_and_memory_of_each() -> None:
    values = json.loads(run("llama-3.1-70b", "--quant", "awq", "--cards", "2", "-o", "json")[1])
    assert values["limits"] == {"headroom.dev/gpu": "2", "headroom.dev/vram": "43Gi"}
    assert "--tensor-parallel-size=2" in values["args"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("llama9",), "did you mean llama-2-7b"),
        (("no/such/config.json",), "no/such/config.json: cannot be read: No such file"),
        (("llama-2-7b", "--context", "8192"), "llama-2-7b is made for at most 4096 tokens"),
        (("llama-3.1-8b", "--card", "H100"), "several cards are called so: NVIDIA-H100-PCIe"),
        (("llama-3.1-8b", "--card", "RTX9999"), "not in the table of cards"),
        (("llama-3.1-8b", "--quant", "int3"), "'int3' is not one of"),
        (("llama-3.1-8b", "--concurrency", "0"), "0 is not in the range"),
    ],
)
def test_mistakes_are_answered_with_what_to_do(arguments: tuple[str, ...], said: str) -> None:
    code, text = run(*arguments)
    assert code != 0
    assert said in text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "num_hidden_layers is missing"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers: 'many' is not a whole number"),
        ({"num_hidden_layers": -1}, "num_hidden_layers: -1 is not a whole number"),
        ([1], "must hold an object, not list"),
    ],
)
def test_a_broken_configuration_names_the_field(tmp_path: Path, config: Any, said: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises((ShapeError, EstimateError)) as caught:
        shape_of(str(path))
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
