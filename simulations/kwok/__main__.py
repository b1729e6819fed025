"""`python -m simulations.kwok`: a cluster to play with until Ctrl-C."""

import time

import click

from headroom.errors import HeadroomError
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import uniform_nodes


@click.command()
@click.option("--nodes", default=4, show_default=True, help="How many nodes with eight 80 GiB cards each.")
@click.option("--prometheus/--no-prometheus", default=False, help="Also run a Prometheus.")
def main(nodes: int, prometheus: bool) -> None:
    """Start a Kubernetes control plane with simulated GPU nodes, say how to reach it, and stop it at Ctrl-C."""
    try:
        with Cluster.start(nodes=uniform_nodes(nodes), prometheus=prometheus) as cluster:
            click.echo(f"export KUBECONFIG={cluster.kubeconfig}")
            click.echo(f"logs are in {cluster.folder}; Ctrl-C ends it")
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        click.echo("stopped")
    except HeadroomError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
