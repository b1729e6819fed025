"""The command `headroom top`."""

import asyncio
import json
import shutil
import sys
from typing import Any

import click

from headroom.commands.ask.extender import AskError, deciding_extender
from headroom.commands.ask.top_view import picture
from headroom.commands.cluster import answer_options, cluster_options, connected, no_namespace
from headroom.kube.client import KubeClient

_CLEAR = "\033[H\033[2J\033[3J"
pause = asyncio.sleep


@click.command()
@click.option("--watch/--once", default=False, help="Go on until interrupted, or say it once (default).")
@click.option(
    "--every",
    "every_seconds",
    type=click.FloatRange(0.5, 3600),
    default=5.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--node", default="", help="Only the cards of this node.")
@cluster_options
@answer_options
@no_namespace
def top(
    watch: bool,
    every_seconds: float,
    node: str,
    kubeconfig: str | None,
    context: str | None,
    system_namespace: str,
    output: str,
) -> None:
    """Show every card: what pods declared, what is used, how busy it is, and who holds what.

    Asks the extender that decides, through the API server; needs the right to `get` on `pods/proxy` in Headroom's namespace
    (ClusterRole headroom-ask).
    """

    async def look() -> None:
        async with connected(kubeconfig, context) as kube:
            if watch:
                await _watch(kube, system_namespace, node, every_seconds, output)
            else:
                _show(await _cards(kube, system_namespace, node), output, watched=False)

    try:
        asyncio.run(look())
    except KeyboardInterrupt:
        click.echo()


async def _watch(kube: KubeClient, namespace: str, node: str, every_seconds: float, output: str) -> None:
    """An extender that cannot be asked now, because it restarts or another takes over, is asked again."""
    while True:
        try:
            _show(await _cards(kube, namespace, node), output, watched=True)
        except AskError as error:
            click.echo(f"error: {error}; asked again in {every_seconds:g} s", err=True)
        await pause(every_seconds)


async def _cards(kube: KubeClient, namespace: str, node: str) -> dict[str, Any]:
    """The extender is found anew each time: the one that decided before may be a standby now. Raises AskError."""
    extender = await deciding_extender(kube, namespace)
    return await extender.get("/v1/cards", [("node", node)] if node else [])


def _show(page: dict[str, Any], output: str, *, watched: bool) -> None:
    if output == "json":
        click.echo(json.dumps(page, indent=None if watched else 2))
        return
    on_terminal = sys.stdout.isatty()
    size = shutil.get_terminal_size((120, 40))
    lines = picture(
        page,
        columns=size.columns,
        rows=size.lines if watched and on_terminal else None,
        unicode="utf" in (sys.stdout.encoding or "").lower(),
        colour=on_terminal,
    )
    if watched and on_terminal:
        click.echo(_CLEAR, nl=False)
    click.echo("\n".join(lines) + ("\n" if watched and not on_terminal else ""))
