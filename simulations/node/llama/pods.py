"""Pods that run llama.cpp's server: the machine's own build and libraries, mounted into an image without anything."""

from pathlib import Path
from typing import Any, Final

from headroom import names
from simulations.node.images.basic import BUSYBOX
from simulations.node.llama.build import MODEL, SERVER

PORT: Final = 8000
SLOTS: Final = 4
_LIBRARIES: Final = ("/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64")
_METRICS: Final = f"wget -q -O - http://127.0.0.1:{PORT}/metrics"
# Endpoints let go of a pod that is being deleted; what it was given before that is finished before the server is told to end.
DRAIN: Final = (
    f"sleep 3; while {_METRICS} | grep -E '^llamacpp:requests_(processing|deferred) [1-9]'; do sleep 0.5; done"
)


def command(built: Path, host: str, port: int) -> list[str]:
    """What starts the server. `built` is where it finds the folder of `simulations.node.llama.build`."""
    start = [str(built / SERVER), "--model", str(built / MODEL), "--host", host, "--port", str(port)]
    return [*start, "--metrics", "--parallel", str(SLOTS), "--ctx-size", "4096", "--threads", "1", "--no-warmup"]


def deployment(name: str, built: Path, *, vram: str, replicas: int = 1) -> list[dict[str, Any]]:
    """A Deployment of servers and the Service in front of them. `built` is the folder of `simulations.node.llama.build`."""
    folders = {"engine": str(built)} | {f"lib-{at}": one for at, one in enumerate(_LIBRARIES) if Path(one).exists()}
    mounts = [
        {"name": volume, "mountPath": "/engine" if volume == "engine" else path, "readOnly": True}
        for volume, path in folders.items()
    ]
    container = {
        "name": "engine",
        "image": BUSYBOX,
        "command": command(Path("/engine"), "0.0.0.0", PORT),
        "readinessProbe": {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", DRAIN]}}},
        "resources": {"requests": {"cpu": "10m"}, "limits": {names.RESOURCE_VRAM: vram}},
        "volumeMounts": mounts,
    }
    labels = {"app": name}
    notes = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT)}
    spec = {
        "terminationGracePeriodSeconds": 120,
        "containers": [container],
        "volumes": [{"name": volume, "hostPath": {"path": path}} for volume, path in folders.items()],
    }
    metadata = {"name": name, "namespace": "default", "labels": {"test": "node"}}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels, "annotations": notes}, "spec": spec},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"name": "http", "port": PORT}]},
        },
    ]
