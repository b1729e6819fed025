"""Settings: precedence, every problem at once, unknown keys."""

import dataclasses
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from headroom.daemon.settings import SettingsError, load, options, setting


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
    port: int = setting(8901, reason="where to listen", unit="TCP port", minimum=0, maximum=65535)
    wait_seconds: float = setting(30.0, reason="how long to wait", unit="seconds", minimum=1)
    quiet: bool = setting(False, reason="say less")
    policy: str = setting("headroom", reason="how to place", choices=("headroom", "fgd"))
    peers: tuple[str, ...] = setting((), reason="who else")
    url: str | None = setting(None, reason="where to ask")


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("port: 1\nwait-seconds: 2m\npolicy: fgd\n")
    env = {"HEADROOM_PROBE_PORT": "2", "HEADROOM_PROBE_WAIT_SECONDS": "3", "HEADROOM_PROBE_PEERS": "a,b"}
    assert load(ProbeSettings, {"port": "4"}, env, file) == ProbeSettings(
        port=4, wait_seconds=3.0, policy="fgd", peers=("a", "b")
    )


@pytest.mark.parametrize(
    ("flags", "env", "text", "expected"),
    [
        ({"port": "70000"}, {}, "", "--port: 70000 is above 65535 TCP port"),
        ({"port": "x"}, {}, "", "--port: 'x' is not a whole number"),
        ({}, {"HEADROOM_PROBE_QUIET": "maybe"}, "", "HEADROOM_PROBE_QUIET: 'maybe' is not true or false"),
        ({}, {"HEADROOM_PROBE_PROT": "1"}, "", "HEADROOM_PROBE_PROT: unknown environment variable"),
        ({}, {}, "prot: 1", "unknown key 'prot'"),
        ({}, {}, "- 1", "must hold keys and values, not list"),
        ({}, {}, "a: [", "is not YAML"),
        ({}, {}, "port: true", "port: True is not a whole number"),
        ({"policy": "best"}, {}, "", "--policy: 'best' is not one of headroom, fgd"),
        ({"wait_seconds": "soon"}, {}, "", "--wait-seconds: 'soon' is not a duration"),
        ({"wait_seconds": "0.5"}, {}, "", "0.5 is below 1 seconds"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(
    tmp_path: Path, flags: dict[str, Any], env: dict[str, Any], text: str, expected: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(ProbeSettings, flags, env, file)
    assert expected in str(caught.value)


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("colour: blue")
    with pytest.raises(SettingsError) as caught:
        load(ProbeSettings, {"port": "-1"}, {"HEADROOM_PROBE_QUIET": "2"}, file)
    assert len(caught.value.problems) == 3


def test_a_missing_file_is_an_error_not_a_default(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(ProbeSettings, file=tmp_path / "absent.yaml")


def test_addresses_that_kubernetes_injects_for_services_are_not_settings() -> None:
    env = {
        "HEADROOM_PROBE_PORT": "tcp://10.0.0.1:8901",
        "HEADROOM_PROBE_SERVICE_HOST": "10.0.0.1",
        "HEADROOM_PROBE_PORT_8901_TCP_ADDR": "10.0.0.1",
    }
    assert load(ProbeSettings, env=env) == ProbeSettings()


def test_every_field_becomes_a_documented_option() -> None:
    @click.command()
    @options(ProbeSettings)
    def command(**flags: Any) -> None:
        click.echo(load(ProbeSettings, flags).port)

    runner = CliRunner()
    assert runner.invoke(command, ["--port", "7"]).output == "7\n"
    assert runner.invoke(command, ["--quiet", "--port", "7"]).output == "7\n"
    text = runner.invoke(command, ["--help"]).output
    for word in ("--wait-seconds", "how long to wait", "HEADROOM_PROBE_PORT", "Default: 8901"):
        assert word in text


@pytest.mark.parametrize(("words", "quiet"), [(["--quiet"], True), (["--quiet", "false"], False), ([], False)])
def test_a_yes_or_no_setting_can_be_named_alone(words: list[Any], quiet: bool) -> None:
    @click.command()
    @options(ProbeSettings)
    def command(**flags: Any) -> None:
        click.echo(load(ProbeSettings, flags).quiet)

    assert CliRunner().invoke(command, words).output == f"{quiet}\n"
