"""The `headroom agent` command."""

import os
from typing import Any

import click
import msgspec

from agent.daemon import AgentError, serve
from agent.once import describe, read_once
from agent.settings import AgentSettings
from headroom.daemon import logs
from headroom.daemon.settings import load, options
from headroom.daemon.tasks import run


@click.command()
@click.option("--config", default=None, help="Settings file (YAML). (HEADROOM_AGENT_CONFIG)")
@click.option(
    "--once", is_flag=True, help="Read the cards once, print what was found, and end; writes nothing anywhere."
)
@click.option("--json", "as_json", is_flag=True, help="With --once: print JSON, which --script understands.")
@options(AgentSettings)
def main(config: str | None, once: bool, as_json: bool, **flags: Any) -> None:
    """Report what this node's cards really do: inventory, use, energy, and who holds them."""
    settings = load(AgentSettings, flags, os.environ, config or os.environ.get("HEADROOM_AGENT_CONFIG"))
    logs.setup(level=settings.log_level)
    if once:
        reading = read_once(settings)
        click.echo(msgspec.json.format(msgspec.json.encode(reading)).decode() if as_json else describe(reading))
        return
    if as_json:
        raise AgentError("--json: only with --once")
    if not settings.node:
        raise AgentError("--node: the name of this Node is needed (HEADROOM_AGENT_NODE)")
    run(serve(settings))


if __name__ == "__main__":
    main()
