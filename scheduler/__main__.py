"""`headroom scheduler`: serve the kube-scheduler extender."""

import os

import click

from headroom.daemon import logs, tasks
from headroom.daemon.settings import load, options
from scheduler.daemon import serve
from scheduler.settings import SchedulerSettings


@click.command()
@options(SchedulerSettings)
@click.option("--config", default=None, metavar="PATH", help="YAML file of settings. (HEADROOM_SCHEDULER_CONFIG)")
def main(config: str | None, **flags: str | None) -> None:
    """Serve the kube-scheduler extender: filter, prioritize and bind by free VRAM and time slices.

    It answers on the same port: /healthz, /readyz, /metrics, /v1/fit, /v1/explain?pod=namespace/name, /v1/cards, /debug/snapshot.
    """
    settings = load(SchedulerSettings, flags, os.environ, config or os.environ.get("HEADROOM_SCHEDULER_CONFIG"))
    logs.setup(level=settings.log_level)
    tasks.run(serve(settings))


if __name__ == "__main__":
    main()
