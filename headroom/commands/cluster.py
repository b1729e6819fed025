"""What every command that talks to a cluster has: which cluster, and which namespace."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click

from headroom.kube.aio import AioKubeClient, connect

F = TypeVar("F", bound=Callable[..., Any])


def cluster_options(function: F) -> F:
    """`--kubeconfig` and `--context`, as kubectl has them."""
    function = click.option("--context", default=None, help="Context of the kubeconfig.")(function)
    return click.option(
        "--kubeconfig", default=None, help="Path of a kubeconfig; else $KUBECONFIG, then ~/.kube/config."
    )(function)


def answer_options(function: F) -> F:
    """`--system-namespace` and `-o`, for commands that tell of Headroom itself."""
    output = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
    system = click.option(
        "--system-namespace", default="headroom-system", show_default=True, help="Where Headroom runs."
    )
    return system(output(function))


def _refuse_namespace(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(
            f"-n is not taken here; where Headroom runs is named by --system-namespace {value}", context
        )


def no_namespace(function: F) -> F:
    """Answers `-n NAMESPACE` where only Headroom's own namespace can be meant."""
    return click.option("-n", "--namespace", hidden=True, expose_value=False, callback=_refuse_namespace)(function)


@asynccontextmanager
async def connected(kubeconfig: str | None, context: str | None) -> AsyncIterator[AioKubeClient]:
    """A connection to the API server while the block runs. Raises KubeConfigError."""
    kube = await connect(kubeconfig, context)
    try:
        yield kube
    finally:
        await kube.close()
