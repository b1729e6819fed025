"""The commands `headroom explain` and `headroom fit`."""

import asyncio
import copy
import json
from typing import IO, Any, Final

import click
import yaml

from headroom.commands.ask.extender import AskError, deciding_extender
from headroom.commands.ask.words import explained, fitted
from headroom.commands.cluster import answer_options, cluster_options, connected
from headroom.commands.manifests import text_of
from headroom.kube.kubeconfig import namespace_of

_PODS: Final = ("pod", "pods", "po")
_SCALERS: Final = ("ia", "inferenceautoscaler", "inferenceautoscalers", "inferenceautoscaler.headroom.dev")


@click.command()
@click.argument("what", metavar="pod/NAME|ia/NAME")
@click.option("-n", "--namespace", default=None, help="Namespace of it; by default that of the context.")
@cluster_options
@answer_options
@click.pass_context
def explain(
    context_of_click: click.Context, what: str, namespace: str | None, kubeconfig: str | None, context: str | None,
    system_namespace: str, output: str,
) -> None:  # fmt: skip
    """Say what was decided for a pod or an InferenceAutoscaler, and why.

    Asks the extender that decides, through the API server; needs the right to `get` on `pods/proxy` in Headroom's namespace.
    """
    kind, _, name = what.partition("/")
    if "/" not in what:
        kind, name = "pod", what
    if not name:
        raise AskError(f"{what}: has no name; write pod/NAME or ia/NAME")
    where = namespace or namespace_of(kubeconfig, context)
    if kind.lower() in _SCALERS:
        _explain_scaler(context_of_click, name, where, kubeconfig)
        return
    if kind.lower() not in _PODS:
        raise AskError(f"{what}: {kind} is neither pod nor ia; write pod/NAME or ia/NAME")

    async def ask() -> dict[str, Any]:
        async with connected(kubeconfig, context) as kube:
            extender = await deciding_extender(kube, system_namespace)
            return await extender.get("/v1/explain", [("pod", f"{where}/{name}")])

    answer = asyncio.run(ask())
    click.echo(json.dumps(answer, indent=2) if output == "json" else explained(answer))


def _explain_scaler(context: click.Context, name: str, namespace: str, kubeconfig: str | None) -> None:
    """The autoscaler's own command says it: what was decided stands in the object's status."""
    root = context.find_root().command
    autoscaler = root.get_command(context, "autoscaler") if isinstance(root, click.Group) else None
    if autoscaler is None:
        raise AskError(f"ia/{name}: ask with `headroom autoscaler explain {name} -n {namespace}`")
    flags = ["--kubeconfig", kubeconfig] if kubeconfig else []
    autoscaler.main([*flags, "explain", name, "-n", namespace], standalone_mode=False)


@click.command()
@click.option(
    "-f",
    "--filename",
    type=click.File("r", "utf-8"),
    required=True,
    help="Manifest of a pod or of a workload with a pod template; - for standard input.",
)
@click.option(
    "-n", "--namespace", default=None, help="Namespace of the pod; by default the manifest's, then that of the context."
)
@click.option("--limit", type=click.IntRange(1, 2000), default=1000, show_default=True, help="Stop counting there.")
@cluster_options
@answer_options
def fit(
    filename: IO[str], namespace: str | None, limit: int, kubeconfig: str | None, context: str | None, system_namespace: str,
    output: str,
) -> None:  # fmt: skip
    """Say how many more pods like this one the cluster can hold, where, and why not more.

    The pod is not created. Asks the extender that decides, through the API server; needs the right to `create` on `pods/proxy`
    in Headroom's namespace.
    """
    pod = pod_of(text_of(filename), filename.name, namespace or "")
    pod["metadata"].setdefault("namespace", namespace_of(kubeconfig, context))

    async def ask() -> dict[str, Any]:
        async with connected(kubeconfig, context) as kube:
            extender = await deciding_extender(kube, system_namespace)
            return await extender.post("/v1/fit", {"pod": pod, "limit": limit})

    answer = asyncio.run(ask())
    click.echo(json.dumps(answer, indent=2) if output == "json" else fitted(answer, limit))


def pod_of(text: str, where: str, namespace: str) -> dict[str, Any]:
    """The pod in a manifest, or one made of its template. Raises AskError."""
    try:
        documents = [one for one in yaml.safe_load_all(text) if one]
    except yaml.YAMLError as error:
        raise AskError(f"{where}: is not YAML: {' '.join(str(error).split())}") from error
    found = [one for one in map(_pod_inside, documents) if one is not None]
    if not found:
        raise AskError(f"{where}: holds no pod and no pod template")
    if len(found) > 1:
        raise AskError(f"{where}: holds {len(found)} pods or templates; ask about one at a time")
    if namespace:
        found[0]["metadata"]["namespace"] = namespace
    return found[0]


def _pod_inside(document: Any) -> dict[str, Any] | None:
    if not isinstance(document, dict):
        return None
    if document.get("kind") == "Pod":
        return {**copy.deepcopy(document), "metadata": dict(document.get("metadata") or {"name": "example"})}
    template = (document.get("spec") or {}).get("template") if isinstance(document.get("spec"), dict) else None
    if not isinstance(template, dict) or not isinstance(template.get("spec"), dict):
        return None
    meta = dict(template.get("metadata") or {})
    owner = document.get("metadata") or {}
    meta.setdefault("name", owner.get("name", "example"))
    if owner.get("namespace"):
        meta.setdefault("namespace", owner["namespace"])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": copy.deepcopy(template["spec"])}
