"""`headroom demo`: the whole product without a GPU."""

import asyncio
import time
from pathlib import Path

import click

from headroom.errors import HeadroomError
from simulations.demo import on_embedded
from simulations.demo.page import page_of
from simulations.demo.placement.chapter import PlacementChapter
from simulations.demo.report import footer
from simulations.demo.services.report import StoryChapter, story_lines
from simulations.demo.services.scenario import STORY_HOURS
from simulations.demo.view import View
from simulations.html.render import write


@click.command()
@click.option(
    "--on",
    default="embedded",
    show_default=True,
    type=click.Choice(["embedded", "kwok", "node"]),
    help="embedded: a simulated cluster in virtual time. kwok: a real control plane with simulated nodes, in real time."
    " node: a real node whose containers run, with cards of a stub driver; no report; needs Linux and root.",
)
@click.option("--seed", default=7, show_default=True, help="Of the fleets, the stream of Deployments and the load.")
@click.option(
    "--deployments",
    default=80,
    show_default=True,
    type=click.IntRange(1, 400),
    help="Deployments in the stream of the placement chapter.",
)
@click.option(
    "--hours",
    default=STORY_HOURS,
    show_default=True,
    type=click.FloatRange(0.1, 24),
    help="Virtual hours of load (embedded).",
)
@click.option(
    "--seconds", default=180, show_default=True, type=click.IntRange(20, 3600), help="Real seconds of load (kwok)."
)
@click.option(
    "--out",
    default="out",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for report.html and the daemons' logs.",
)
def main(on: str, seed: int, deployments: int, hours: float, seconds: int, out: Path) -> None:
    """Show the whole product without a GPU, and write report.html."""
    view = View()
    if on == "node":
        _on_node(view)
        return
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    if on == "kwok":
        from simulations.demo.on_kwok import run

        facts = run.FACTS
        placement, story = asyncio.run(run.run(seed, deployments, seconds, out, view))
    else:
        facts = on_embedded.FACTS
        placement, story = asyncio.run(_embedded(seed, deployments, hours, out, view))
    for line in story_lines(story):
        view.say(line)
    command = f"headroom demo --on {on} --seed {seed}"
    page, data = page_of(placement, story, facts, footer(command, time.perf_counter() - began))
    write(out / "report.html", page, data)
    view.say(f"Report: {out / 'report.html'}")


def _on_node(view: View) -> None:
    from simulations.demo import on_node

    try:
        on_node.run(view.say)
    except HeadroomError as error:
        raise click.ClickException(str(error)) from error


async def _embedded(
    seed: int, deployments: int, hours: float, out: Path, view: View
) -> tuple[PlacementChapter, StoryChapter]:
    placement = await on_embedded.placement_chapter(seed, deployments, out, view)
    return placement, await on_embedded.story_chapter(seed, hours, out, view)
