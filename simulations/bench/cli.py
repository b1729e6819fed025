"""`headroom bench`: the figures of docs/performance.md, one command each."""

import click

from headroom.cli import LazyGroup


@click.group(
    cls=LazyGroup,
    lazy={
        "agent": ("simulations.bench.agent:main", "Time of a reading, processor share and memory of the agent."),
        "autoscaler": (
            "simulations.bench.autoscaler:main",
            "Time, queries, writes and memory of a tick over 1,000 objects.",
        ),
        "extender": ("simulations.bench.extender:latency", "Latency of filter and bind over HTTP, by cluster size."),
        "memory": ("simulations.bench.extender:memory", "Start-up time and memory with many nodes and pods."),
        "stalls": ("simulations.bench.stalls:main", "How long anything keeps the extender's event loop."),
        "throughput": ("simulations.bench.throughput:main", "Pods bound per second on a real control plane."),
    },
)
def main() -> None:
    """Measure latency, throughput and memory."""
