"""The command `headroom clean-nodes`: nodes as they were before Headroom. What the chart runs after an uninstall."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec

from headroom.commands.cluster import cluster_options, connected
from headroom.kube.calls import NODES, annotate, listed
from headroom.kube.client import KubeClient
from headroom.names import ANNOTATION_AGENT_TELLS, ANNOTATION_NODE_CARDS, ANNOTATION_NODE_LINKS, ANNOTATION_WAKE

_PASSES: Final = 5


class Managed(msgspec.Struct, rename="camel"):
    """Who wrote which fields."""

    manager: str = ""
    fields_v1: dict[str, Any] = msgspec.field(name="fieldsV1", default_factory=dict)


class Metadata(msgspec.Struct, rename="camel"):
    """What is read of a node."""

    name: str
    annotations: dict[str, str] = {}
    managed_fields: list[Managed] = []


class Node(msgspec.Struct):
    """A node, as far as it is read."""

    metadata: Metadata


_NODE: Final = msgspec.json.Decoder(Node)


def written_by_headroom(node: Metadata) -> tuple[str, ...]:
    """The annotations that Headroom's daemons wrote. A description of cards that a person wrote with kubectl is not among them."""
    found: list[str] = [name for name in (ANNOTATION_AGENT_TELLS, ANNOTATION_WAKE) if name in node.annotations]
    described = (ANNOTATION_NODE_CARDS, ANNOTATION_NODE_LINKS)
    found += [name for name in described if name in node.annotations and not _by_hand(node, name)]
    return tuple(found)


def _by_hand(node: Metadata, annotation: str) -> bool:
    field = f"f:{annotation}"
    return any(
        field in entry.fields_v1.get("f:metadata", {}).get("f:annotations", {})
        for entry in node.managed_fields
        if entry.manager.startswith("kubectl")
    )


@click.command()
@cluster_options
@click.option("--yes", is_flag=True, help="Do it; without this flag the command only says what it would remove.")
@click.option(
    "--settle",
    "settle_seconds",
    type=click.FloatRange(0, 60),
    default=2.0,
    show_default=True,
    help="Seconds after which it looks again: an agent that is still ending may write once more.",
)
def main(kubeconfig: str | None, context: str | None, yes: bool, settle_seconds: float) -> None:
    """Remove the annotations that Headroom's daemons wrote on nodes; for use after Headroom was taken away.

    Cards that were described by hand stay described. Run it when no agent runs any more: an agent writes them again.
    """
    nodes = asyncio.run(_clean(kubeconfig, context, yes, settle_seconds))
    verb = "cleaned" if yes else "would clean"
    click.echo(f"{verb} {nodes} {'node' if nodes == 1 else 'nodes'}" + ("" if yes else "; add --yes to do it"))


async def _clean(kubeconfig: str | None, context: str | None, yes: bool, settle_seconds: float) -> int:
    async with connected(kubeconfig, context) as kube:
        cleaned: set[str] = set()
        for at in range(_PASSES if yes else 1):
            if at:
                await asyncio.sleep(settle_seconds)
            found = await _annotated(kube)
            if not found:
                break
            for name, annotations in found:
                if name not in cleaned:
                    click.echo(f"{name}: {', '.join(annotations)}")
                cleaned.add(name)
                if yes:
                    await annotate(kube, f"{NODES}/{name}", dict.fromkeys(annotations))
        return len(cleaned)


async def _annotated(kube: KubeClient) -> Sequence[tuple[str, tuple[str, ...]]]:
    """Name of each node that Headroom wrote on, and the annotations."""
    found: list[tuple[str, tuple[str, ...]]] = []
    async for item in listed(kube, NODES):
        node = _NODE.decode(item).metadata
        if annotations := written_by_headroom(node):
            found.append((node.name, annotations))
    return found
