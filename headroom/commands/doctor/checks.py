"""What can be wrong, one function each: facts in, findings out. Pure.

A finding says what is, why it matters, and the command that mends it. Nothing is said of what could not be read.
"""

import datetime
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from headroom import names, wire
from headroom.commands.doctor.facts import Facts, Object
from headroom.domain.assignment import readable_assignment_of
from headroom.domain.dra.classes import NVIDIA_DRIVER
from headroom.domain.model import Mode
from headroom.domain.node_cards import InventoryError, node_of
from headroom.domain.request import RequestError, request_of

_SILENT_SECONDS: Final = 60.0
_CLOCK_SECONDS: Final = 10.0
_DONE: Final = ("Succeeded", "Failed")
_MUTATING: Final = "headroom-pods"


class Level(Enum):
    """How bad it is."""

    BROKEN = "broken"
    RISK = "at risk"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know."""

    level: Level
    what: str
    why: str
    mend: str


Check = Callable[[Facts], Iterator[Finding]]


def examine(facts: Facts) -> list[Finding]:
    """All findings, worst first."""
    found = [finding for check in CHECKS for finding in check(facts)]
    order = list(Level)
    return sorted(found, key=lambda finding: order.index(finding.level))


def _installed(facts: Facts) -> bool:
    deployed = any(facts.named("deployments", name) for name in ("headroom-scheduler", "headroom-autoscaler"))
    return deployed or facts.named("daemonsets", "headroom-scheduler") is not None  # a DaemonSet in mode `existing`


def _install_again(facts: Facts) -> str:
    """The command that puts back what is missing, for the way in which Headroom was installed."""
    for kind in ("deployments", "daemonsets", "mutating_policies", "validating_policies"):
        for one in facts.lists.get(kind, ()):
            meta = one.get("metadata") or {}
            managed = (meta.get("labels") or {}).get("app.kubernetes.io/managed-by")
            if str(meta.get("name", "")).startswith("headroom-") and managed == "Helm":
                notes = meta.get("annotations") or {}
                release = notes.get("meta.helm.sh/release-name", "headroom")
                namespace = notes.get("meta.helm.sh/release-namespace", facts.system)
                return f"helm upgrade {release} deploy/chart -n {namespace} --reuse-values"
    return "kubectl apply --server-side -k deploy/base"


def installation(facts: Facts) -> Iterator[Finding]:
    """Whether it runs at all."""
    if "deployments" not in facts.lists:
        return
    if not _installed(facts):
        yield Finding(
            Level.BROKEN, f"Headroom is not installed in namespace {facts.system}", "nothing below can work",
            "kubectl apply --server-side -k deploy/base, or helm install headroom deploy/chart -n NAMESPACE --create-namespace"
            "   (docs/install.md, docs/helm.md; --system-namespace names another namespace)",
        )  # fmt: skip
        return
    for name in ("headroom-scheduler", "headroom-autoscaler"):
        yield from _rolled_out(facts, "deployments", name, "replicas", "readyReplicas")
    yield from _rolled_out(facts, "daemonsets", "headroom-scheduler", "desiredNumberScheduled", "numberReady")
    yield from _rolled_out(facts, "daemonsets", "headroom-agent", "desiredNumberScheduled", "numberReady")


def _rolled_out(facts: Facts, kind: str, name: str, wanted_key: str, ready_key: str) -> Iterator[Finding]:
    one = facts.named(kind, name)
    if one is None:
        return
    status = one.get("status") or {}
    wanted = status.get(wanted_key, (one.get("spec") or {}).get("replicas", 0)) or 0
    ready = status.get(ready_key) or 0
    if ready < wanted:
        yield Finding(
            Level.BROKEN if not ready else Level.RISK, f"{name}: {ready} of {wanted} ready", _why_not_ready(facts, name),
            f"kubectl -n {facts.system} describe pod -l app.kubernetes.io/component={name.removeprefix('headroom-')}",
        )  # fmt: skip


def _why_not_ready(facts: Facts, name: str) -> str:
    for pod in facts.lists.get("system_pods", ()):
        if not str((pod.get("metadata") or {}).get("name", "")).startswith(name):
            continue
        for status in (pod.get("status") or {}).get("containerStatuses") or ():
            waiting = (status.get("state") or {}).get("waiting") or {}
            if waiting.get("reason"):
                return f"container {status.get('name')}: {waiting['reason']} {waiting.get('message', '')}".strip()
    return "its pods say why"


def versions(facts: Facts) -> Iterator[Finding]:
    """API server and kube-scheduler."""
    server = _minor(facts.version)
    if server and server < 30:
        yield Finding(Level.BROKEN, f"the API server is {facts.version}", "Headroom needs 1.30 or newer",
                      "upgrade the cluster")  # fmt: skip
    deployment = facts.named("deployments", "headroom-scheduler")
    for container in _containers(deployment):
        image = str(container.get("image", ""))
        scheduler = _minor(image.rpartition(":")[2])
        if "kube-scheduler" in image and server and scheduler and not server - 1 <= scheduler <= server:
            yield Finding(
                Level.RISK, f"kube-scheduler is {image.rpartition(':')[2]}, the API server {facts.version}",
                "kube-scheduler may be as new as the API server or one minor version older",
                f"kubectl -n {facts.system} set image deployment/headroom-scheduler"
                f" kube-scheduler={image.rpartition(':')[0]}:{_released(facts.version)}",
            )  # fmt: skip


def _containers(workload: Object | None) -> list[Object]:
    spec = (((workload or {}).get("spec") or {}).get("template") or {}).get("spec") or {}
    return list(spec.get("containers") or ())


def _released(version: str) -> str:
    """The version as registry.k8s.io has it, without what a provider added (`v1.33.5-eks-...`)."""
    match = re.match(r"v?1\.\d+\.\d+", version)
    return match[0] if match else version


def _minor(version: str) -> int:
    match = re.match(r"v?1\.(\d+)", version)
    return int(match[1]) if match else 0


def admission(facts: Facts) -> Iterator[Finding]:
    """The policies that give pods their environment and guard what is written on them."""
    if not _installed(facts) or "mutating_policies" not in facts.lists:
        return
    if "mutating_policies" in facts.absent:
        yield Finding(
            Level.RISK, f"this API server ({facts.version}) has no MutatingAdmissionPolicy v1 (1.36 and newer have)",
            "pods that ask for memory are not sent to Headroom and do not learn their card by themselves",
            "set schedulerName: headroom and the environment by fieldRef yourself: docs/requests.md",
        )  # fmt: skip
    elif facts.named("mutating_policies", _MUTATING) is None:
        yield Finding(
            Level.BROKEN, f"MutatingAdmissionPolicy {_MUTATING} is missing",
            "$(HEADROOM_VRAM_SHARE) stays as it is written, and pods are not sent to Headroom",
            _install_again(facts),
        )  # fmt: skip
    for policies, bindings in (
        ("mutating_policies", "mutating_bindings"),
        ("validating_policies", "validating_bindings"),
    ):
        bound = {(one.get("spec") or {}).get("policyName") for one in facts.lists.get(bindings, ())}
        for policy in facts.lists.get(policies, ()):
            name = str((policy.get("metadata") or {}).get("name"))
            if name.startswith("headroom-") and name not in bound:
                yield Finding(Level.BROKEN, f"policy {name} has no binding", "it is not applied to anything",
                              _install_again(facts))  # fmt: skip


def leases(facts: Facts) -> Iterator[Finding]:
    """Who decides, and whether clocks agree."""
    for name, what in (("headroom-extender", "extender"), ("headroom-autoscaler", "autoscaler")):
        lease = facts.named("leases", name)
        if lease is None:
            continue
        spec = lease.get("spec") or {}
        age = facts.now - _unix(spec.get("renewTime"), facts.now)
        if not spec.get("holderIdentity"):
            yield Finding(Level.BROKEN, f"no {what} decides: lease {name} is held by nobody", "nothing is decided until one does",
                          f"kubectl -n {facts.system} logs -l app.kubernetes.io/component={_component(what)} --tail=50")  # fmt: skip
        elif age > _SILENT_SECONDS:
            yield Finding(
                Level.BROKEN, f"the {what} that decides ({spec['holderIdentity']}) has been silent for {age:.0f} s",
                "its lease should be renewed every few seconds",
                f"kubectl -n {facts.system} logs -l app.kubernetes.io/component={_component(what)} --tail=50",
            )  # fmt: skip
        elif age < -_CLOCK_SECONDS:
            yield Finding(Level.NOTE, f"the clock of this machine is {-age:.0f} s behind that of the {what}",
                          "ages that this command tells are wrong by that", "set the clock of this machine")  # fmt: skip


def _component(what: str) -> str:
    return "scheduler" if what == "extender" else what


def _unix(text: Any, fallback: float) -> float:
    try:
        return datetime.datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return fallback


def nodes(facts: Facts) -> Iterator[Finding]:
    """Nodes that Headroom does not understand, or not wholly."""
    for node in facts.nodes:
        try:
            described = node_of(node)
        except InventoryError as error:
            yield Finding(Level.BROKEN, f"node {node.metadata.name} takes no pods: {error}", "its cards are left unused",
                          "docs/inventory.md says what each label and annotation means")  # fmt: skip
            continue
        for problem in described.problems:
            yield Finding(
                Level.RISK,
                f"node {node.metadata.name}: {problem}",
                "a part of the node is not used",
                "docs/inventory.md",
            )
        sick = [card.id for card in described.cards if not card.healthy]
        if sick:
            yield Finding(Level.RISK, f"node {node.metadata.name}: {len(sick)} of {len(described.cards)} cards are withdrawn",
                          f"the agent found them unhealthy: {', '.join(sick)}", "docs/agent.md: Health")  # fmt: skip
        if described.cards and not any(card.sized for card in described.cards):
            yield Finding(
                Level.RISK, f"node {node.metadata.name}: the memory of its cards is not known", "whole cards are placed, sizes are refused",
                f"kubectl label node {node.metadata.name} headroom.dev/card-vram=<memory of one card, such as 44Gi>",
            )  # fmt: skip


def runtime(facts: Facts) -> Iterator[Finding]:
    """Whether a container learns which card it was given (pinned mode)."""
    if "runtime_classes" not in facts.lists or not facts.lists.get("cluster_policies"):
        return
    spec = facts.lists["cluster_policies"][0].get("spec") or {}
    cdi = spec.get("cdi") or {}
    if cdi.get("nriPluginEnabled"):
        yield Finding(
            Level.BROKEN, "the GPU Operator runs with NRI (cdi.nriPluginEnabled)",
            "there is no RuntimeClass nvidia then, and NVIDIA_VISIBLE_DEVICES of pinned pods has no effect",
            'kubectl patch clusterpolicy cluster-policy --type merge -p \'{"spec":{"cdi":{"nriPluginEnabled":false}}}\'',
        )  # fmt: skip
    elif facts.named("runtime_classes", "nvidia") is None:
        yield Finding(Level.RISK, "there is no RuntimeClass nvidia", "a pod with runtimeClassName: nvidia is refused",
                      "the GPU Operator's toolkit makes it: kubectl get clusterpolicy -o yaml")  # fmt: skip
    if cdi.get("enabled", True):
        without = sorted({pod.key for pod in facts.pods if _pinned(pod) and not pod.spec.runtime_class_name})
        if without:
            yield Finding(
                Level.RISK, f"{len(without)} pinned pods have no runtimeClassName: {', '.join(without[:5])}",
                "with CDI on, a container that relies on NVIDIA_VISIBLE_DEVICES sees its card only under RuntimeClass nvidia",
                "add runtimeClassName: nvidia to their templates",
            )  # fmt: skip
    environment = {entry.get("name"): entry.get("value") for entry in ((spec.get("toolkit") or {}).get("env") or ())}
    if str(environment.get("ACCEPT_NVIDIA_VISIBLE_DEVICES_ENVVAR_WHEN_UNPRIVILEGED", "true")).lower() == "false":
        yield Finding(
            Level.BROKEN, "the toolkit ignores NVIDIA_VISIBLE_DEVICES of unprivileged containers",
            "pinned pods are placed on a card and do not see it",
            "set ACCEPT_NVIDIA_VISIBLE_DEVICES_ENVVAR_WHEN_UNPRIVILEGED=true in the ClusterPolicy's toolkit.env",
        )  # fmt: skip


def _pinned(pod: wire.Pod) -> bool:
    if pod.status.phase in _DONE:
        return False
    try:
        request = request_of(pod)
    except RequestError:
        return False
    return request is not None and request.count > 0 and request.mode is Mode.PINNED


def two_schedulers(facts: Facts) -> Iterator[Finding]:
    """Whole cards that the cluster's own scheduler gives out on nodes where Headroom pins pods."""
    pinned = {
        pod.spec.node_name
        for pod in facts.pods
        if pod.spec.node_name and readable_assignment_of(pod.metadata.annotations) is not None and _pinned(pod)
    }
    others: Counter[str] = Counter()
    for pod in facts.pods:
        if (
            pod.spec.node_name in pinned
            and pod.spec.scheduler_name == "default-scheduler"
            and pod.status.phase not in _DONE
        ):
            asked = {name for container in pod.spec.containers for name in container.resources.limits}
            if names.RESOURCE_NVIDIA_GPU in asked and readable_assignment_of(pod.metadata.annotations) is None:
                others[pod.spec.node_name] += 1
    for node, count in sorted(others.items()):
        yield Finding(
            Level.RISK, f"node {node}: {count} pods with nvidia.com/gpu came from the default scheduler, beside pods that Headroom pinned",
            "kubelet does not know of pinned pods and may hand out the same card twice",
            "set schedulerName: headroom in them, or taint the node: docs/scheduler.md",
        )  # fmt: skip


def prometheus(facts: Facts) -> Iterator[Finding]:
    """What the autoscaler and measured memory live on."""
    found = facts.metrics
    if found is None:
        yield Finding(Level.NOTE, "Prometheus was not looked at", "the autoscaler and measured memory live on it",
                      "headroom doctor --prometheus-url http://...")  # fmt: skip
        return
    if not found.reachable:
        yield Finding(Level.BROKEN, f"Prometheus cannot be asked: {found.trouble}", "no load is seen: replicas freeze",
                      "docs/prometheus.md has a row for each platform")  # fmt: skip
        return
    if not found.agents and not found.dcgm:
        yield Finding(
            Level.RISK, "Prometheus has no card's memory: neither Headroom's agents nor dcgm-exporter are scraped",
            "only what pods declare counts; a process that nobody declared is not seen",
            "scrape the pods annotated prometheus.io/scrape in " + facts.system + ": docs/install.md",
        )  # fmt: skip
    wanted = Counter(str((one.get("spec") or {}).get("engine", "vllm")) for one in facts.lists.get("autoscalers", ()))
    for engine, count in sorted(wanted.items()):
        if engine != "custom" and not found.engines.get(engine):
            yield Finding(
                Level.BROKEN, f"{count} InferenceAutoscalers have engine {engine}, and no pod exports its metrics",
                "they do not scale", "scrape the engine's pods; docs/signals.md has the metric names",
            )  # fmt: skip
    for job, count in sorted(found.jobs_down.items()):
        if re.search(r"headroom|dcgm|vllm|sglang|engine|inference", job):
            yield Finding(Level.RISK, f"scrape job {job}: {count} targets do not answer", "their pods count as silent",
                          "Prometheus' page /targets says why")  # fmt: skip


def dra(facts: Facts) -> Iterator[Finding]:
    """Cards served by dynamic resource allocation."""
    drivers = Counter(
        str((one.get("spec") or {}).get("driver")) for one in facts.lists.get("resource_slices", ()) if one.get("spec")
    )
    if slices := drivers[NVIDIA_DRIVER]:
        yield Finding(Level.NOTE, f"NVIDIA's DRA driver is here ({slices} slices)",
                      "cards that claims hold are counted; pinned mode on such nodes is a setting", "docs/dra.md")  # fmt: skip


def resource_definition(facts: Facts) -> Iterator[Finding]:
    """The InferenceAutoscaler's definition."""
    if not _installed(facts) or "crds" not in facts.lists or not facts.named("deployments", "headroom-autoscaler"):
        return
    if facts.named("crds", "inferenceautoscalers.headroom.dev") is None:
        yield Finding(Level.BROKEN, "the InferenceAutoscaler resource is not defined", "the autoscaler has nothing to do",
                      "kubectl apply --server-side -f deploy/base/crd-inferenceautoscalers.yaml")  # fmt: skip


def rights(facts: Facts) -> Iterator[Finding]:
    """What this account could not read."""
    for path in facts.forbidden:
        yield Finding(Level.NOTE, f"not looked at: {path}", "this account may not read it",
                      f"kubectl auth can-i list {path.rsplit('/', 1)[-1]}")  # fmt: skip
    for path, words in facts.unread.items():
        yield Finding(Level.NOTE, f"not looked at: {path}", f"the API server did not answer: {words}",
                      f"kubectl get --raw {path}, then this command again")  # fmt: skip


CHECKS: Final[tuple[Check, ...]] = (
    installation, versions, admission, resource_definition, leases, nodes, runtime, two_schedulers, prometheus, dra, rights,
)  # fmt: skip
