"""The namespace that a kubeconfig's context names: people expect commands to look there."""

import os
from pathlib import Path
from typing import Any

import yaml

_IN_A_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def namespace_of(kubeconfig: str | None = None, context: str | None = None) -> str:
    """As kubectl finds it: of the context, else the current one, else the pod's own, else `default`.

    Files that cannot be read say nothing here: whoever connects is told.
    """
    for name in (kubeconfig or os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")).split(os.pathsep):
        config = _read(name)
        context = context or config.get("current-context")
        for entry in config.get("contexts") or ():
            if isinstance(entry, dict) and entry.get("name") == context:
                return str((entry.get("context") or {}).get("namespace") or "default")
    try:
        return _IN_A_POD.read_text("utf-8").strip() or "default"
    except OSError:
        return "default"


def _read(name: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(Path(name).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
