"""What the image and the pods of deploy/base may do, without building or starting them; tests/image does both."""

import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.paths import DEPLOY, ROOT

NOBODY = 65532


def pods() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in ("scheduler", "autoscaler", "agent"):
        for document in yaml.safe_load_all((DEPLOY / "base" / f"{name}.yaml").read_text(encoding="utf-8")):
            if document["kind"] in ("Deployment", "DaemonSet"):
                found[name] = document["spec"]["template"]["spec"]
    return found


CONTAINERS = [
    pytest.param(pod, container, id=f"{name}/{container['name']}")
    for name, pod in pods().items()
    for container in pod["containers"]
]


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_containers_have_the_least_rights(pod: Any, container: Any) -> None:
    """Only the agent is root: kubelet's socket is open to nobody else. It has no capability either."""
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert "privileged" not in security
    user = pod["securityContext"]
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    if container["name"] != "agent":
        assert user["runAsNonRoot"] is True
        assert user["runAsUser"] == user["runAsGroup"] == NOBODY


def test_the_image_itself_names_a_user_that_is_not_root() -> None:
    last_stage = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    assert f"\nUSER {NOBODY}:{NOBODY}\n" in last_stage


def test_the_image_has_no_package_that_no_pod_needs() -> None:
    """The models of the `kubernetes` package would be a third of it, scipy as much again."""
    command = [sys.executable, str(DEPLOY / "image-requirements.py"), str(ROOT / "pyproject.toml")]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "numpy" in listed
    assert not {"kubernetes", "scipy"} & {line.partition(">")[0] for line in listed.splitlines()}
