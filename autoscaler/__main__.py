"""`headroom autoscaler`: scale inference workloads; explain what was decided; export FastChat's queue."""

import asyncio
import os
import time
from typing import Any

import click

from autoscaler.settings import AutoscalerSettings, budgets
from headroom.daemon import logs, tasks
from headroom.daemon.settings import load, options
from headroom.errors import HeadroomError


@click.group(invoke_without_command=True)
@options(AutoscalerSettings)
@click.option("--config", default=None, metavar="PATH", help="YAML file of settings. (HEADROOM_AUTOSCALER_CONFIG)")
@click.option("--once", is_flag=True, help="One round over all objects, without election, then print it and end.")
@click.pass_context
def main(context: click.Context, /, config: str | None, once: bool, **flags: str | None) -> None:
    """Reconcile InferenceAutoscaler objects: signals in, replicas out, with reasons.

    Serves /healthz, /readyz and /metrics. Several may run: one holds the lease and acts, the others watch along.
    """
    settings = load(AutoscalerSettings, flags, os.environ, config or os.environ.get("HEADROOM_AUTOSCALER_CONFIG"))
    budgets(settings)  # wrong ones are told before anything is connected to
    context.obj = settings
    if context.invoked_subcommand is not None:
        return
    from autoscaler import daemon

    logs.setup(level=settings.log_level)
    if not once:
        tasks.run(daemon.serve(settings))
        return
    for key, outcome in sorted(asyncio.run(daemon.single_round(settings)).items()):
        decision = outcome.decision
        click.echo(f"{key}: {outcome.observation.replicas} -> {decision.replicas}" + _unmet(decision.unmet))
        for reason in decision.reasons:
            click.echo(f"  {reason.rule}: {reason.text}")


def _unmet(count: int) -> str:
    return f" ({count} unmet)" if count else ""


@main.command()
@click.argument("name")
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of the object.")
@click.pass_obj
def explain(settings: AutoscalerSettings, name: str, namespace: str) -> None:
    """Say what was decided for the InferenceAutoscaler NAME, and why."""
    from autoscaler.tick.explain import explain as in_words

    click.echo(in_words(asyncio.run(_read(settings, namespace, name))))


async def _read(settings: AutoscalerSettings, namespace: str, name: str) -> Any:
    from autoscaler.api.resource import DECODER
    from headroom.kube.aio import connect
    from headroom.kube.client import NotFound
    from headroom.names import API_VERSION, PLURAL_AUTOSCALER

    kube = await connect(settings.kubeconfig or None)
    try:
        path = f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL_AUTOSCALER}/{name}"
        return DECODER.decode(await kube.request("GET", path))
    except NotFound as error:
        raise HeadroomError(f"there is no InferenceAutoscaler {name} in namespace {namespace}") from error
    finally:
        await kube.close()


@main.command()
@click.option("-n", "--namespace", default="", help="Only objects of this namespace.")
@click.option("--name", default="", help="Only objects of this name.")
@click.option("--days", default=7.0, type=click.FloatRange(0.01, 400.0), show_default=True, help="How far back.")
@click.option("--hourly-cost", default=0.0, type=click.FloatRange(0.0), help="Of a replica; without it hours are told.")
@click.option("--unit", default="USD", show_default=True, help="Of the cost.")
@click.pass_obj
def report(settings: AutoscalerSettings, namespace: str, name: str, days: float, hourly_cost: float, unit: str) -> None:
    """What each target cost and missed, beside what Headroom asked for: after a week of objects that only advise.

    Read from the autoscaler's own metrics in Prometheus (--prometheus-url).
    """
    from autoscaler.tick import report as reading
    from autoscaler.tick.shadow import words
    from headroom.prometheus.client import PrometheusSource

    if not settings.prometheus_url:
        raise click.UsageError(
            "the report is read from Prometheus: say `headroom autoscaler --prometheus-url URL report`"
        )

    async def read() -> str:
        source = PrometheusSource.of(settings)
        try:
            end = time.time()
            return words(await reading.read(source, end - days * 86_400, end, namespace, name), hourly_cost, unit)
        finally:
            await source.close()

    click.echo(asyncio.run(read()))


@main.command("fastchat-exporter")
@click.option("--worker", default="http://127.0.0.1:21002", show_default=True, help="Address of the worker.")
@click.option("--listen", default=9105, type=click.IntRange(0, 65535), show_default=True, help="Port of the metrics.")
@click.option(
    "--every",
    "every_seconds",
    default=5.0,
    type=click.FloatRange(0.1, 300.0),
    show_default=True,
    help="Seconds between two questions.",
)
@click.pass_obj
def fastchat_exporter(settings: AutoscalerSettings, worker: str, listen: int, every_seconds: float) -> None:
    """Export the queue length of the FastChat worker beside it."""
    from autoscaler.adapters import fastchat_exporter

    logs.setup(level=settings.log_level)
    tasks.run(fastchat_exporter.serve(worker, settings.host, listen, every_seconds))


if __name__ == "__main__":
    main()
