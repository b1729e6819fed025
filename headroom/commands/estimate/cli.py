"""The `headroom estimate` command."""

import difflib
import json
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import click
import yaml

from headroom.commands.estimate.memory import ENGINES, GIB, QUANTISATIONS, Ask, Estimate, EstimateError, estimate
from headroom.commands.estimate.shapes import Shape, read_shape
from headroom.domain.accelerators import NVIDIA
from headroom.units import format_mib

_TUNINGS = re.compile(r"-(instruct|chat|it|base|hf|v\d+(\.\d+)?|\d{4}|awq|gptq(-int4)?|fp8|bnb-4bit)$")


@click.command()
@click.argument("model")
@click.option(
    "--quant",
    type=click.Choice(sorted(QUANTISATIONS)),
    default="bf16",
    show_default=True,
    help="How the weights are stored.",
)
@click.option(
    "--context",
    "context_tokens",
    type=click.IntRange(1),
    default=8192,
    show_default=True,
    help="Tokens of a request, prompt and answer together.",
)
@click.option("--concurrency", type=click.IntRange(1), default=16, show_default=True, help="Requests served at once.")
@click.option("--engine", type=click.Choice(list(ENGINES)), default="vllm", show_default=True, help="Inference server.")
@click.option("--cards", type=click.IntRange(1, 64), default=1, show_default=True, help="Cards that one replica spans.")
@click.option(
    "--kv-bits", type=click.Choice(["16", "8"]), default="16", show_default=True, help="Bits of a cached value."
)
@click.option("--card", default=None, help="Card model, such as L40S or NVIDIA-H100-80GB-HBM3: how many replicas fit.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(
    model: str, quant: str, context_tokens: int, concurrency: int, engine: str, cards: int, kv_bits: str, card: str | None,
    output: str,
) -> None:  # fmt: skip
    """Say how much GPU memory MODEL needs, and print what to write into its manifest.

    MODEL is a known name (llama-3.1-8b, Qwen/Qwen2.5-7B-Instruct, ...) or the path of a config.json as Hugging Face publishes it.
    """
    ask = Ask(QUANTISATIONS[quant], ENGINES[engine], context_tokens, concurrency, cards, int(kv_bits))
    shape = shape_of(model)
    found = estimate(shape, ask)
    on_card = _card(card) if card else None
    if output == "json":
        click.echo(json.dumps(as_values(shape, ask, found, on_card), indent=2))
    else:
        click.echo(as_text(shape, ask, found, on_card))


@cache
def known_models() -> dict[str, dict[str, Any]]:
    """The bundled table: name -> configuration."""
    text = resources.files("headroom.commands.estimate").joinpath("models.yaml").read_text("utf-8")
    table: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return table


def shape_of(model: str) -> Shape:
    """The shape of a known model or of the config.json at a path. Raises EstimateError and ShapeError."""
    path = Path(model)
    if path.suffix == ".json" or path.is_dir():
        return _from_file(path / "config.json" if path.is_dir() else path)
    known = known_models()
    name = plain_name(model)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise EstimateError(
            f"{model!r} is not a known model: {hint}Any other is read from its config.json: headroom estimate PATH/config.json"
            f" (known: {', '.join(known)})"
        )
    return read_shape(known[name], name)


def plain_name(model: str) -> str:
    """`meta-llama/Llama-3.1-8B-Instruct` -> `llama-3.1-8b`: what memory depends on, without maker and tuning."""
    name = model.rsplit("/", 1)[-1].lower().removeprefix("meta-").replace("_", "-")
    while name not in known_models() and (shorter := _TUNINGS.sub("", name)) != name:
        name = shorter
    return name


def _from_file(path: Path) -> Shape:
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise EstimateError(f"{path}: cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EstimateError(f"{path}: is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise EstimateError(f"{path}: must hold an object, not {type(config).__name__}")
    return read_shape(config, str(path))


def _card(asked: str) -> tuple[str, int]:
    """Model and usable MiB of a card, by its whole name or a part that only one has. Raises EstimateError."""
    known = NVIDIA.known_vram_mib
    if asked in known:
        return asked, known[asked]
    words = re.split(r"[-\s]+", asked.lower())
    found = [name for name in known if all(word in name.lower().split("-") for word in words)]
    sizes = {known[name] for name in found}
    if len(sizes) == 1:
        return found[0], sizes.pop()
    if found:
        raise EstimateError(f"--card {asked}: several cards are called so: {', '.join(found)}")
    raise EstimateError(f"--card {asked}: not in the table of cards ({', '.join(known)})")


def resources_of(ask: Ask, found: Estimate) -> dict[str, str]:
    """The limits to write into the manifest."""
    size = {"headroom.dev/vram": f"{found.total_mib // GIB}Gi"}
    return size if ask.cards == 1 else {"headroom.dev/gpu": str(ask.cards), **size}


def flags_of(ask: Ask) -> list[str]:
    """The engine's flags for this share, context and concurrency."""
    templates = [*ask.engine.flags, *([ask.engine.spans] if ask.cards > 1 and ask.engine.spans else [])]
    values = {
        "context": ask.context_tokens,
        "concurrency": ask.concurrency,
        "tokens": ask.context_tokens * ask.concurrency,
        "cards": ask.cards,
    }
    return [template.format(**values) for template in templates]


def as_values(shape: Shape, ask: Ask, found: Estimate, card: tuple[str, int] | None) -> dict[str, Any]:
    """Plain values of an estimate, MiB per card."""
    values: dict[str, Any] = {
        "model": shape.name,
        "parameters": shape.parameters,
        "activeParameters": shape.active_parameters,
        "cards": ask.cards,
        "perCardMib": {
            "weights": found.weights_mib,
            "kvCache": found.cache_mib,
            "activations": found.activations_mib,
            "engine": found.engine_mib,
            "total": found.total_mib,
        },
        "kvBytesPerToken": round(shape.kv_bytes(1, ask.kv_bits / 8)),
        "limits": resources_of(ask, found),
        "args": flags_of(ask),
    }
    if card is not None:
        values["card"] = {"model": card[0], "usableMib": card[1], "replicas": card[1] // found.total_mib}
    return values


def as_text(shape: Shape, ask: Ask, found: Estimate, card: tuple[str, int] | None) -> str:
    """An estimate for people, ending with lines for the manifest."""
    billion = f"{shape.parameters / 1e9:.2f} billion parameters"
    if shape.mixture is not None:
        billion += f" ({shape.active_parameters / 1e9:.1f} active)"
    lines = [
        f"{shape.name}: {billion}, {ask.quantisation.name}, {ask.engine.name},"
        f" {ask.concurrency} requests of {ask.context_tokens} tokens at once",
        "",
        f"{'on each of ' + str(ask.cards) + ' cards' if ask.cards > 1 else 'on one card'}",
        *(
            f"  {name:<12} {format_mib(mib):>10}"
            for name, mib in (
                ("weights", found.weights_mib),
                ("KV cache", found.cache_mib),
                ("activations", found.activations_mib),
                ("engine", found.engine_mib),
            )
        ),
        f"  {'to ask for':<12} {format_mib(found.total_mib):>10}   (5 % beside the sum, whole GiB)",
        "",
        "resources:",
        "  limits:",
        *(f"    {key}: {value!s}" for key, value in resources_of(ask, found).items()),
        "args:",
        *(f"- {flag}" for flag in flags_of(ask)),
    ]
    if card is not None:
        lines += ["", _on_card(found, card)]
    lines += [
        "",
        "An estimate by rule (docs/estimate.md), not a measurement: compare with what the agent measures, then set it.",
    ]
    return "\n".join(lines)


def _on_card(found: Estimate, card: tuple[str, int]) -> str:
    model, usable = card
    count = usable // found.total_mib
    if not count:
        return (
            f"{model} has {format_mib(usable)}: too small by {format_mib(found.total_mib - usable)}. Smaller: --quant,"
            " --context, --concurrency, --kv-bits 8; or --cards"
        )
    return f"{model} has {format_mib(usable)}: {count} such replica{'s' if count > 1 else ''} on one card"
