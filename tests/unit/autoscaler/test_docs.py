"""The tables of docs/autoscaling.md say what the code does. `python tests/unit/autoscaler/test_docs.py` writes the law's anew."""

import ast
import dataclasses
from pathlib import Path

import pytest
import yaml

from autoscaler.api.resource import DECODER, read
from autoscaler.law import constants as constants_module
from autoscaler.law.constants import LawConstants
from autoscaler.law.decision import Rule
from autoscaler.law.inputs import SignalKind
from headroom.domain.engines import ENGINES
from headroom.wire import encode
from tests.paths import DEPLOY, DOCS, ROOT

PAGE = DOCS / "autoscaling.md"
HEAD = "| constant | value | what for |\n|---|---|---|\n"


def law_table() -> str:
    """One row per constant of the law, with the words of its docstring."""
    source = Path(str(constants_module.__file__)).read_text(encoding="utf-8")
    body = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "LawConstants").body[1:]
    words: dict[str, str] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            words[node.target.id] = " ".join(str(text).split())
    return HEAD + "".join(
        f"| `{f.name}` | {f.default:g} | {words[f.name]} |\n" for f in dataclasses.fields(LawConstants)
    )


def test_the_laws_constants_are_as_the_page_says() -> None:
    assert law_table() in PAGE.read_text(encoding="utf-8")


def test_every_signal_and_engine_has_its_row() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for word in (*SignalKind, *ENGINES):
        assert f"`{word}`" in page, word
    for engine in ENGINES.values():
        for metric in (engine.waiting, engine.running, engine.kv_cache, engine.in_flight):
            for name in metric.names:
                assert f"`{name}`" in page, name


def test_every_state_that_needs_a_person_is_explained() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for rule in (
        Rule.OUTAGE,
        Rule.NO_READY_POD,
        Rule.CRASH_LOOP,
        Rule.HUNG,
        Rule.PAUSED,
        Rule.ROLLOUT,
        Rule.WINDOW_NOT_FULL,
    ):
        assert f"`{rule}`" in page, rule


def test_the_query_that_keda_follows_is_the_one_that_is_tested() -> None:
    files = (
        DEPLOY / "examples" / "autoscaler-for-keda.yaml",
        ROOT / "tests" / "alerts" / "autoscaler_followed_test.yaml",
    )
    _, scaled = yaml.safe_load_all(files[0].read_text(encoding="utf-8"))
    tests = yaml.safe_load(files[1].read_text(encoding="utf-8"))["tests"]
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert {test["promql_expr_test"][0]["expr"].strip() for test in tests} == {query}


def test_the_objects_for_prefill_and_decode_can_be_read() -> None:
    block = (DOCS / "roles.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    prefill, decode = (read(DECODER.decode(encode(one))) for one in yaml.safe_load_all(block))
    assert prefill.costs == (0.00014, 1e-9)
    assert prefill.spec.objective is not None
    assert decode.spec.objective is not None
    # What either may be late for adds up to the 2 % that the page speaks of.
    assert (1 - prefill.spec.objective.share) + (1 - decode.spec.objective.share) == pytest.approx(0.02)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    start = text.index(HEAD)
    PAGE.write_text(text[:start] + law_table() + text[text.index("\n\n", start) + 1 :], encoding="utf-8")
