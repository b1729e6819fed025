"""Finds the best setting of each side of the second chapter for each service (`services.tuning` holds them)."""

import asyncio
import tempfile
from pathlib import Path

import click

from simulations.demo.on_embedded import run_headroom
from simulations.demo.services.record import SideRecord
from simulations.demo.services.scenario import SERVICES, STORY_HOURS
from simulations.demo.services.tuning import TRIED, best, rival
from simulations.serving.laws.base import Parameters


def run(law: str, parameters: Parameters, seed: int) -> SideRecord:
    """All services with one setting."""
    everywhere = {service.name: parameters for service in SERVICES}
    if law != "headroom":
        return rival(law, everywhere, law, seed=seed, hours=STORY_HOURS)
    with tempfile.TemporaryDirectory() as name:
        done = asyncio.run(run_headroom(everywhere, out=Path(name), seed=seed, hours=STORY_HOURS))
    return done.side.record(law)


@click.command()
@click.option("--seed", default=7, show_default=True, help="Of the demo.")
def main(seed: int) -> None:
    """Print the best setting of each side for each service."""
    for law, settings in TRIED.items():
        runs = [(setting, run(law, setting, seed)) for setting in settings]
        click.echo(f'    "{law}": {{')
        for index, service in enumerate(SERVICES):
            click.echo(f'        "{service.name}": {dict(best(runs, index))},'.replace("'", '"'))
        click.echo("    },")


if __name__ == "__main__":
    main()
