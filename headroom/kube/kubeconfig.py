"""Kubeconfig files, as far as people get them wrong: which file, which context, which namespace."""

import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from headroom.kube.client import KubeConfigError

_IN_A_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def namespace_of(kubeconfig: str | None = None, context: str | None = None) -> str:
    """As kubectl finds it: of the context, else the current one, else the pod's own, else `default`.

    Files that cannot be read say nothing here: whoever connects is told.
    """
    for name in _files(kubeconfig):
        config = _read(name) or {}
        context = context or config.get("current-context")
        for entry in config.get("contexts") or ():
            if isinstance(entry, dict) and entry.get("name") == context:
                return str((entry.get("context") or {}).get("namespace") or "default")
    try:
        return _IN_A_POD.read_text("utf-8").strip() or "default"
    except OSError:
        return "default"


def check(kubeconfig: str | None, context: str | None) -> None:
    """Raise KubeConfigError, in words, for a file that is not there and for a context that is not in it."""
    files = _files(kubeconfig)
    there = [name for name in files if os.path.isfile(name)]
    if not there:
        if kubeconfig or os.environ.get("KUBECONFIG"):
            raise KubeConfigError(f"kubeconfig {os.pathsep.join(files)}: no such file")
        raise KubeConfigError(
            f"no cluster to talk to: there is no kubeconfig (neither $KUBECONFIG nor {files[0]}), and this is no pod;"
            " name one with --kubeconfig"
        )
    configs = []
    for name in there:
        config = _read(name)
        if config is None:
            raise KubeConfigError(f"kubeconfig {name}: not a kubeconfig")
        configs.append(config)
    known = [entry["name"] for config in configs for entry in config.get("contexts") or () if isinstance(entry, dict)]
    wanted = context or next((config["current-context"] for config in configs if config.get("current-context")), None)
    if not wanted:
        raise KubeConfigError(
            f"kubeconfig {os.pathsep.join(there)} has no current context: choose one with `kubectl config use-context NAME`"
            f" (it has {', '.join(known) or 'none'})"
        )
    if wanted not in known:
        raise KubeConfigError(
            f"kubeconfig {os.pathsep.join(there)} has no context {wanted}; it has {', '.join(known) or 'none'}"
        )
    _check_parts(configs, wanted, os.pathsep.join(there))


def _check_parts(configs: list[dict[str, Any]], wanted: str, where: str) -> None:
    """Raise KubeConfigError for a context whose cluster or user is in none of the files."""
    contexts = _named(configs, "contexts")
    parts = contexts[wanted].get("context") or {}
    for kind in ("cluster", "user"):
        name, there = parts.get(kind), _named(configs, f"{kind}s")
        if name and name not in there:
            raise KubeConfigError(
                f"kubeconfig {where}: context {wanted} names the {kind} {name}, which is not there;"
                f" it has {', '.join(there) or 'none'}"
            )
    cluster, user = (
        (_named(configs, f"{kind}s").get(str(parts.get(kind))) or {}).get(kind) or {} for kind in ("cluster", "user")
    )
    if parts.get("cluster") and not cluster.get("server"):
        raise KubeConfigError(f"kubeconfig {where}: context {wanted}: cluster {parts['cluster']} has no server")
    program = str((user.get("exec") or {}).get("command") or "")
    if program and os.sep not in program and shutil.which(program) is None:
        raise KubeConfigError(
            f"kubeconfig {where}: user {parts['user']} logs in by the program {program}, which is not on the PATH:"
            " install it, or choose another --context"
        )


def _named(configs: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Entries of one list of all files by name; the first file goes before the others."""
    entries = [entry for config in configs for entry in config.get(kind) or () if isinstance(entry, dict)]
    return {str(entry.get("name")): entry for entry in reversed(entries)}


def _files(kubeconfig: str | None) -> list[str]:
    named = kubeconfig or os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
    return [name for name in named.split(os.pathsep) if name]


def _read(name: str) -> dict[str, Any] | None:
    """What is in the file; None for one that cannot be read, or is no kubeconfig."""
    try:
        found = yaml.safe_load(Path(name).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return found if isinstance(found, dict) else None
