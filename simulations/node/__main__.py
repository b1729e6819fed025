"""`python -m simulations.node`: a real node with Headroom on it, to play with until the shell ends."""

import os
import subprocess
import sys
import time

import click

from headroom.errors import HeadroomError
from simulations.node.cluster import NodeCluster
from simulations.node.installation import install


@click.command()
@click.option("--cards", default=2, show_default=True, help="How many cards of 80 GiB the stub of NVML shows.")
@click.option("--replicas", default=0, show_default=True, help="Devices per card of the device plugin; 0: no plugin.")
@click.option("--headroom/--bare", default=True, show_default=True, help="Run Headroom's daemons on it.")
def main(cards: int, replicas: int, headroom: bool) -> None:
    """Start a Kubernetes node with its control plane, open a shell inside, and end it with the shell.

    Without a terminal it says how to get in, and ends at Ctrl-C.
    """
    try:
        with NodeCluster.start(cards=cards) as cluster:
            if replicas:
                cluster.start_plugin(replicas)
            if headroom:
                install(cluster)
            _play(cluster)
    except KeyboardInterrupt:
        click.echo("stopped")
    except HeadroomError as error:
        raise click.ClickException(str(error)) from error


def _play(cluster: NodeCluster) -> None:
    environment = os.environ | {
        "KUBECONFIG": str(cluster.kubeconfig),
        "PATH": f"{cluster.binaries}:{os.environ['PATH']}",
        "PS1": "node# ",
    }
    click.echo(f"node up; logs are in {cluster.folder}; the image localhost/busybox:1 is there")
    if sys.stdin.isatty():
        click.echo("this shell is inside the node: try `kubectl get nodes -o wide`; leaving it ends the node")
        subprocess.run([*cluster.prefix(), "bash", "--norc"], env=environment, check=False)
        return
    click.echo(
        f"kubectl: {' '.join(cluster.prefix())} {cluster.binaries / 'kubectl'} --kubeconfig={cluster.kubeconfig}"
    )
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
