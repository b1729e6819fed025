"""What a cluster has besides Headroom: DNS and Prometheus as Services that lead to the node, NVIDIA's RuntimeClass, rights."""

from typing import Any, Final

from simulations.node.namespaces import NODE_IP
from simulations.node.programs import CLUSTER_DNS

PROMETHEUS_PORT: Final = 9090


def _service(namespace: str, name: str, port: dict[str, Any], address: str | None = None) -> list[dict[str, Any]]:
    """A Service without a selector, and the EndpointSlice that leads it to the node."""
    metadata = {"name": name, "namespace": namespace}
    spec: dict[str, Any] = {"ports": [port], **({"clusterIP": address} if address else {})}
    label = {"kubernetes.io/service-name": name}
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-node", "namespace": namespace, "labels": label},
        "addressType": "IPv4",
        "ports": [port],
        "endpoints": [{"addresses": [NODE_IP]}],
    }
    return [{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}, endpoints]


def cluster_objects() -> list[dict[str, Any]]:
    """To be applied once the API server is there."""
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "kube-proxy"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
        "subjects": [{"kind": "User", "name": "system:kube-proxy", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    return [
        binding,
        {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"},
        *_service("kube-system", "kube-dns", {"name": "dns", "port": 53, "protocol": "UDP"}, CLUSTER_DNS),
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "monitoring"}},
        *_service("monitoring", "prometheus-operated", {"name": "web", "port": PROMETHEUS_PORT}),
    ]
