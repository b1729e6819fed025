"""Headroom's daemons as processes of a node, without an image: the extender, the agent, and a kube-scheduler that asks it."""

from pathlib import Path
from typing import Any, Final

import yaml

from headroom import names
from simulations.node.cluster import NODE_NAME, NodeCluster

EXTENDER_PORT: Final = 8901
AGENT_PORT: Final = 8903
EXTENDER: Final = f"http://127.0.0.1:{EXTENDER_PORT}"
AGENT: Final = f"http://127.0.0.1:{AGENT_PORT}"
_BASE: Final = Path(__file__).resolve().parents[2] / "deploy" / "base"
_PROBE: Final = {
    "metadata": {"name": "probe"},
    "spec": {"containers": [{"name": "main", "image": "none", "resources": {"limits": {names.RESOURCE_VRAM: "1Gi"}}}]},
}


def install(node: NodeCluster, *agent_flags: str) -> None:
    """Start them with the rights of the cluster's owner; returns once cards are published and pods are admitted."""
    node.daemon("scheduler", "--port", str(EXTENDER_PORT), ready_url=f"{EXTENDER}/readyz")
    node.daemon(
        "agent", "--node", NODE_NAME, "--port", str(AGENT_PORT), *agent_flags,
        ready_url=f"{AGENT}/readyz", environment=node.cards.environment(),
    )  # fmt: skip
    config: dict[str, Any] = yaml.safe_load((_BASE / "kube-scheduler.yaml").read_text())
    config["leaderElection"] = {"leaderElect": False}
    config["extenders"][0]["urlPrefix"] = EXTENDER
    node.add_scheduler("headroom-kube-scheduler", config)
    node.apply(_BASE / "admission-policy.yaml")

    def known() -> bool:
        return names.ANNOTATION_NODE_CARDS in node.node()["metadata"].get("annotations", {})

    def in_force() -> bool:
        pods = "/api/v1/namespaces/default/pods"
        probe = node.api.request("POST", pods, _PROBE, query={"dryRun": "All"})
        return "env" in probe["spec"]["containers"][0]

    node.wait_for(known, "the node's cards to be published")
    node.wait_for(in_force, "the admission policy to be in force")
