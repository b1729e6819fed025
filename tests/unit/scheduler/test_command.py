"""`headroom scheduler` as a command: what it says when it cannot start."""

import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from headroom.daemon.settings import SettingsError, load
from headroom.errors import HeadroomError
from scheduler.__main__ import main as command
from scheduler.daemon import serve
from scheduler.placement.policies.registry import POLICIES as REGISTERED
from scheduler.placement.policies.registry import policy_by_name
from scheduler.placement.scoring import Policy
from scheduler.settings import POLICIES, SchedulerSettings
from tests.fakes.apiserver import ApiServer


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async with ApiServer() as api:
        kubeconfig = api.write_kubeconfig(tmp_path / "kubeconfig")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(HeadroomError, match=f"cannot listen on 127.0.0.1:{port}"):
                await serve(SchedulerSettings(host="127.0.0.1", port=port, kubeconfig=str(kubeconfig)))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"policy": "nope"}, "unknown policy 'nope'", id="policy"),
        pytest.param({"prometheus_url": "prometheus:9090"}, "not the address of a Prometheus", id="Prometheus"),
    ],
)
async def test_settings_that_cannot_work_end_the_start_with_the_reason(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    async with ApiServer() as api:
        kubeconfig = api.write_kubeconfig(tmp_path / "kubeconfig")
        with pytest.raises(HeadroomError, match=said):
            await serve(SchedulerSettings(host="127.0.0.1", port=0, kubeconfig=str(kubeconfig), **changed))


def test_every_wrong_setting_is_reported_at_once() -> None:
    flags = {"port": "70000", "answer": "maybe", "reservation_seconds": "0.1"}
    with pytest.raises(SettingsError) as error:
        load(SchedulerSettings, flags, {"HEADROOM_SCHEDULER_POLCY": "x"})
    assert len(error.value.problems) == 4


def test_the_policies_to_choose_from_are_those_that_neither_draw_nor_must_be_told_of_every_placement() -> None:
    policies = {name: policy_by_name(name) for name in REGISTERED}
    able = {name for name, policy in policies.items() if policy.draws is None and type(policy).note is Policy.note}
    assert set(POLICIES) == able


def test_help_names_the_policies() -> None:
    shown = "".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert all(name in shown for name in POLICIES)
