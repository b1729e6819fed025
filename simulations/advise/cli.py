"""The `headroom advise` command."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import click
import yaml

from agent.energy.tariff import Tariff, load_tariff
from headroom.commands.cluster import cluster_options, connected
from headroom.daemon.settings import load, options, setting
from headroom.errors import HeadroomError
from headroom.prometheus.client import PrometheusSource
from headroom.prometheus.series import DEVICE_JOBS, DeviceJobs
from headroom.prometheus.settings import PrometheusSettings
from headroom.units import UnitError, parse_duration_seconds
from simulations.advise.advice import Advice, advise
from simulations.advise.example import TARIFF, example
from simulations.advise.page import page_of
from simulations.advise.reading import Export, read_cluster, read_folder
from simulations.advise.tenants import Rules
from simulations.advise.text import as_text, as_values
from simulations.advise.use import Use, read_use
from simulations.html.render import write


class AdviseError(HeadroomError, ValueError):
    """A flag that makes no sense; the text names it."""


@dataclass(frozen=True)
class AdviseSettings(PrometheusSettings):
    """Where the pods' use was recorded."""

    prometheus_timeout_seconds: float = setting(
        120.0,
        unit="s",
        minimum=0.1,
        maximum=3600.0,
        reason="Longest wait for one answer; a week of a large fleet takes a while.",
    )


@click.command()
@click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path),
    default=None,
    help="Read a file or a folder of exported YAML or JSON instead of the API server:"
    " kubectl get nodes,pods,hpa -A -o json > cluster.json",
)
@click.option("--example", "made_up", is_flag=True, help="Advise on a made-up cluster; needs nothing.")
@click.option("--seed", default=7, show_default=True, help="Of the made-up cluster.")
@cluster_options
@click.option("--window", default="7d", show_default=True, help="How far back use is looked at, such as 24h or 14d.")
@click.option("--tariff", default=None, help="File with the prices of card hours (docs/usage.md).")
@click.option(
    "--price", "prices", multiple=True, metavar="MODEL=PRICE", help="Price of a card hour; may be given several times."
)
@click.option(
    "--spare",
    type=click.FloatRange(0, 1),
    default=0.15,
    show_default=True,
    help="Memory beside the most ever used, as a share.",
)
@click.option(
    "--busy-limit",
    type=click.FloatRange(0.1, 1),
    default=0.8,
    show_default=True,
    help="Share of a card's time that its pods may need together.",
)
@click.option(
    "--page",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Write an HTML page with the fleet card by card.",
)
@click.option(
    "--patches",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder for a patch file for each workload that asks for too much.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@options(AdviseSettings)
def main(
    folder: Path | None, made_up: bool, seed: int, kubeconfig: str | None, context: str | None, window: str, tariff: str | None,
    prices: tuple[str, ...], spare: float, busy_limit: float, page: Path | None, patches: Path | None, output: str,
    **flags: str | None,
) -> None:  # fmt: skip
    """Say what Headroom would save on the cluster as it runs today. Reads only; nothing is installed or changed.

    It needs to list nodes and pods. With --prometheus-url it reads what pods used of their cards, from Headroom's agents or
    from dcgm-exporter; without, sizes are those that pods state.
    """
    if made_up and folder is not None:
        raise AdviseError("--example and --from: one of them")
    if made_up and (given := [name for name, value in flags.items() if value is not None]):
        flag = given[0].replace("_", "-")
        raise AdviseError(f"--{flag}: the example has a use of its own; leave out --{flag}, or leave out --example")
    try:
        seconds = parse_duration_seconds(window)
    except UnitError as error:
        raise AdviseError(f"--window: {error}") from error
    rules, asked = Rules(spare, busy_limit), False
    factors = _tariff(tariff, prices)
    if made_up:
        export, use = example(seed)
        factors = factors if factors.card_hour_prices else TARIFF
        source = f"a made-up cluster (seed {seed})"
    else:
        if folder is not None:
            export, source = read_folder(folder), str(folder)
        else:
            export = asyncio.run(_cluster(kubeconfig, context))
            source = f"the cluster of context {context}" if context else "the cluster"
        settings = load(AdviseSettings, flags)
        asked = bool(settings.prometheus_url)
        use = asyncio.run(_use(settings, seconds)) if asked else {}
    advice = advise(export, use, factors, rules)
    _check(advice, prices)
    if patches is not None:
        _write_patches(patches, advice)
    if page is not None:
        write(page, *page_of(advice, rules, source), template="advise.html")
    click.echo(json.dumps(as_values(advice), indent=2) if output == "json" else as_text(advice, asked=asked))
    if page is not None:
        click.echo(f"Page: {page}", err=True)


def _check(advice: Advice, prices: tuple[str, ...]) -> None:
    """Raise AdviseError for a fleet without cards, and for a price of a model that is not in it."""
    models = [line.model for line in advice.lines]
    if not models:
        left_out = f"; not understood: {'; '.join(advice.problems[:3])}" if advice.problems else ""
        raise AdviseError(
            "no cards found: no node has GPU feature discovery's labels or headroom.dev/cards (docs/inventory.md)"
            + left_out
        )
    for text in prices:
        named = Tariff(card_hour_prices={text.partition("=")[0]: 1.0})
        if all(named.price_of(model) is None for model in models):
            raise AdviseError(f"--price {text}: no card of this model; the fleet has {', '.join(models)}")


async def _cluster(kubeconfig: str | None, context: str | None) -> Export:
    async with connected(kubeconfig, context) as kube:
        return await read_cluster(kube)


async def _use(settings: AdviseSettings, seconds: float) -> dict[str, Use]:
    source = PrometheusSource.of(settings)
    try:
        return await read_use(source, f"{seconds:.0f}s", DeviceJobs(DEVICE_JOBS))
    finally:
        await source.close()


def _tariff(file: str | None, prices: tuple[str, ...]) -> Tariff:
    """The tariff's file, with prices named on the command line above it. Raises AdviseError and TariffError."""
    base = load_tariff(file)
    named: dict[str, float] = {}
    for text in prices:
        model, sign, price = text.partition("=")
        try:
            named[model] = float(price)
        except ValueError:
            sign = ""
        if not sign or not model or named[model] < 0:
            raise AdviseError(f"--price {text}: not MODEL=PRICE, such as NVIDIA-L40S=1.86")
    return Tariff(currency=base.currency, card_hour_prices={**base.card_hour_prices, **named})


def _write_patches(folder: Path, advice: Advice) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in advice.findings.over_asking:
            if one.patch is not None:
                text = f"# {one.kubectl_patch} --patch-file FILE\n{yaml.safe_dump(one.patch, sort_keys=False)}"
                (folder / f"{'.'.join(one.names)}.yaml").write_text(text, "utf-8")
    except OSError as error:
        raise AdviseError(f"--patches {folder}: cannot be written: {error.strerror}") from error
