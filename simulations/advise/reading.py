"""What advise reads: nodes, pods and scalers, from an API server or a folder of exported YAML and JSON. It writes nothing."""

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from headroom import wire
from headroom.errors import HeadroomError, why
from headroom.kube.calls import NODES, PODS, listed
from headroom.kube.client import KubeClient, KubeError

_SUFFIXES: Final = (".yaml", ".yml", ".json")


class ReadingError(HeadroomError):
    """The cluster or the folder cannot be read; the text says what and why."""


class _ScalerTarget(wire.Wire):
    kind: str = ""
    name: str = ""


class _ScalerMetric(wire.Wire):
    type: str = ""


class _ScalerSpec(wire.Wire):
    scale_target_ref: _ScalerTarget = msgspec.field(default_factory=_ScalerTarget)
    metrics: Sequence[_ScalerMetric] = ()


class Scaler(wire.Wire):
    """A HorizontalPodAutoscaler, as far as it is read."""

    metadata: wire.Meta = msgspec.field(default_factory=wire.Meta)
    spec: _ScalerSpec = msgspec.field(default_factory=_ScalerSpec)


_SCALER: Final = wire.Decoder(Scaler)
_DECODERS: Final[dict[str, wire.Decoder[Any]]] = {
    "Node": wire.NODE, "Pod": wire.POD, "HorizontalPodAutoscaler": _SCALER,
}  # fmt: skip


@dataclass(slots=True)
class Export:
    """A cluster at one moment. `unread` says which objects could not be understood, and why."""

    nodes: list[wire.Node] = field(default_factory=list)
    pods: list[wire.Pod] = field(default_factory=list)
    scalers: list[Scaler] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def add(self, kind: str, data: bytes | msgspec.Raw) -> None:
        """Take in one object; one that cannot be read is noted, and costs nothing else."""
        try:
            item = _DECODERS[kind].decode(data)
        except wire.WireError as error:
            self.unread.append(str(error))
            return
        lists: dict[str, list[Any]] = {"Node": self.nodes, "Pod": self.pods, "HorizontalPodAutoscaler": self.scalers}
        lists[kind].append(item)


async def read_cluster(kube: KubeClient) -> Export:
    """Nodes, pods and HPAs, page by page. Raises ReadingError where nodes or pods may not be listed."""
    export = Export()

    async def read(kind: str, path: str, *, needed: bool) -> None:
        try:
            async for item in listed(kube, path):
                export.add(kind, item)
        except KubeError as error:
            if needed:
                raise ReadingError(f"{path} cannot be listed: {error}") from error
            export.unread.append(f"{path} cannot be listed: {error}")

    await asyncio.gather(
        read("Node", NODES, needed=True),
        read("Pod", PODS, needed=True),
        read("HorizontalPodAutoscaler", "/apis/autoscaling/v2/horizontalpodautoscalers", needed=False),
    )
    return export


def read_folder(folder: Path) -> Export:
    """Every node, pod and HPA in the folder's YAML and JSON files, Lists taken apart. Raises ReadingError."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES) if folder.is_dir() else [folder]
    if not files:
        raise ReadingError(f"{folder}: holds no {', '.join(_SUFFIXES)} file")
    export = Export()
    for path in files:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ReadingError(f"{path}: cannot be read: {why(error)}") from error
        for item in _objects(text, path):
            if item.get("kind") in _DECODERS:
                export.add(item["kind"], msgspec.json.encode(item))
    if not export.nodes:
        file = folder / "cluster.json" if folder.is_dir() else "cluster.json"
        raise ReadingError(f"{folder}: no node in it; export some with: kubectl get nodes,pods,hpa -A -o json > {file}")
    return export


def _objects(text: str, path: Path) -> Iterator[dict[str, Any]]:
    try:
        documents: Iterable[Any] = (
            [json.loads(text)]
            if path.suffix == ".json"
            else yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        )
        pending = deque(documents)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ReadingError(f"{path}: is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    while pending:
        item = pending.popleft()
        if isinstance(item, dict) and isinstance(item.get("items"), list):
            # kubectl leaves the kind out of a typed list's items.
            kind = str(item.get("kind", "")).removesuffix("List")
            pending.extend({"kind": kind, **one} if isinstance(one, dict) else one for one in item["items"])
        elif isinstance(item, dict):
            yield item
