"""The `headroom convert` command."""

import json
from collections.abc import Iterable
from typing import IO, Any

import click
import yaml

from headroom.commands.convert.notes import ConvertError, Manifest, Notes, name_of
from headroom.commands.convert.pods import convert_workload
from headroom.commands.convert.scalers import convert_hpa, convert_scaled_object, engine_of
from headroom.commands.manifests import text_of
from headroom.domain.engines import ENGINES


@click.command()
@click.option(
    "-f",
    "--filename",
    "files",
    type=click.File("r", "utf-8"),
    multiple=True,
    required=True,
    help="Manifests, YAML or JSON; - for standard input. May be given several times.",
)
@click.option(
    "--engine",
    type=click.Choice(sorted(ENGINES)),
    default=None,
    help="Inference server of scaled workloads; by default told by a workload's image among the manifests, or a metric's name.",
)
@click.option(
    "--mode",
    type=click.Choice(["Advisory", "Auto"]),
    default="Advisory",
    show_default=True,
    help="Of the InferenceAutoscalers: Advisory says what it would do, Auto does it.",
)
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def main(files: tuple[IO[str], ...], engine: str | None, mode: str, output: str) -> None:
    """Turn manifests of HAMi, gpushare, HPA and KEDA into Headroom's.

    The result goes to standard output; what was carried over, left out, or needs a look goes to standard error.
    Objects of other kinds, and pods that ask in Headroom's way already, come out as they went in.
    """
    manifests = [manifest for file in files for manifest in read(text_of(file), file.name)]
    results, notes = convert(manifests, engine, mode)
    if output == "json":
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": results}, indent=2))
    else:
        click.echo(yaml.safe_dump_all(results, sort_keys=False), nl=False)
    for note in notes:
        click.echo("\n".join(note.lines()), err=True)


def read(text: str, where: str) -> list[Manifest]:
    """The objects of a file, Lists taken apart. Raises ConvertError."""
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise ConvertError(f"{where}: is not YAML: {' '.join(str(error).split())}") from error
    found: list[Manifest] = []
    for at, document in enumerate(documents, start=1):
        if document is None:
            continue
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            raise ConvertError(f"{where}: document {at}: not a Kubernetes object (no kind)")
        objects = document["items"] if document["kind"].endswith("List") and "items" in document else [document]
        if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
            raise ConvertError(f"{where}: document {at}: items is not a list of objects")
        for one in objects:
            for field in ("metadata", "spec"):
                if not isinstance(one.get(field) or {}, dict) or one.get(field) == []:
                    raise ConvertError(f"{where}: document {at}: {field} is not an object")
        found += objects
    if not found:
        raise ConvertError(f"{where}: holds no object")
    return found


def convert(manifests: Iterable[Manifest], engine: str | None, mode: str) -> tuple[list[Manifest], list[Notes]]:
    """The objects in Headroom's words, and notes for each that was touched. Raises ConvertError."""
    manifests = list(manifests)
    engines = {_key(one, one): known for one in manifests if (known := engine_of(one)) is not None}
    results: list[Manifest] = []
    notes: list[Notes] = []
    for one in manifests:
        note = Notes(name_of(one))
        convert_scaler = {"HorizontalPodAutoscaler": convert_hpa, "ScaledObject": convert_scaled_object}.get(
            one["kind"]
        )
        if convert_scaler is not None:
            target = (one.get("spec") or {}).get("scaleTargetRef") or {}
            known = engine or engines.get(
                _key(one, {"kind": "Deployment", **target, "metadata": {"name": target.get("name")}})
            )
            results.append(convert_scaler(one, known, mode, note))
        else:
            results.append(convert_workload(one, note))
        if note.carried or note.left_out or note.look_at:
            notes.append(note)
    return results, notes


def _key(inside: Manifest, named: dict[str, Any]) -> tuple[str, str, str]:
    meta = inside.get("metadata") or {}
    return str(meta.get("namespace", "")), str(named.get("kind")), str((named.get("metadata") or {}).get("name"))
