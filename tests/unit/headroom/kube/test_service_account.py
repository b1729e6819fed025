"""In a pod: host, certificate authority and a token that is renewed on disk."""

from pathlib import Path
from typing import Any

import pytest

from headroom.kube.client import KubeConfigError
from headroom.kube.service_account import ServiceAccount

ENV = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_text("certificate")
    return tmp_path


async def test_a_renewed_token_is_picked_up_after_a_minute(mounted: Path) -> None:
    now = [0.0]
    account = ServiceAccount(ENV, folder=mounted, monotonic=lambda: now[0])
    assert account.host == "https://10.0.0.1:443"
    assert await account.get_api_key_with_prefix("BearerToken") == "Bearer first"
    (mounted / "token").write_text("second")
    assert await account.get_api_key_with_prefix("BearerToken") == "Bearer first"
    now[0] = 61.0
    assert await account.get_api_key_with_prefix("BearerToken") == "Bearer second"


async def test_a_token_file_that_vanishes_leaves_the_last_token(mounted: Path) -> None:
    now = [0.0]
    account = ServiceAccount(ENV, folder=mounted, monotonic=lambda: now[0])
    (mounted / "token").unlink()
    now[0] = 61.0
    assert await account.get_api_key_with_prefix("BearerToken") == "Bearer first"


def test_an_ipv6_host_is_put_in_brackets(mounted: Path) -> None:
    assert ServiceAccount(ENV | {"KUBERNETES_SERVICE_HOST": "fd00::1"}, folder=mounted).host == "https://[fd00::1]:443"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: (folder / "token").unlink(), "token"),
        (lambda folder: (folder / "token").write_text(" "), "is empty"),
        (lambda folder: (folder / "ca.crt").unlink(), "ca.crt"),
    ],
)
def test_a_broken_mount_is_named(mounted: Path, spoil: Any, named: str) -> None:
    spoil(mounted)
    with pytest.raises(KubeConfigError, match=named):
        ServiceAccount(ENV, folder=mounted)


def test_outside_a_pod_it_says_so(mounted: Path) -> None:
    with pytest.raises(KubeConfigError, match="not in a pod"):
        ServiceAccount({}, folder=mounted)
