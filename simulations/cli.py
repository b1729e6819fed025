"""`headroom simulate`: each study loads its own modules when it is called."""

import click

from headroom.cli import LazyGroup


@click.group(
    cls=LazyGroup,
    lazy={
        "placement": ("simulations.placement.cli:main", "Replay pod lists against placement policies."),
        "caution": (
            "simulations.placement.caution:main",
            "Measure what waiting for kubelet's word costs in slice mode.",
        ),
        "links": (
            "simulations.placement.links:main",
            "Measure what knowing the links between cards is worth in a day.",
        ),
        "groups": (
            "simulations.placement.groups.cli:main",
            "Compare ways to place groups of pods: waiting, use, deadlocks.",
        ),
        "serving": ("simulations.serving.cli:main", "Replay request traces against scaling laws."),
        "from-zero": (
            "simulations.serving.studies.from_zero:main",
            "Wake a model from zero by the requests in its gateway.",
        ),
        "roles": (
            "simulations.serving.studies.roles:main",
            "Scale prefill and decode of one model, as one object and as two.",
        ),
        "variants": ("simulations.serving.studies.variants:main", "Mix card types with prices for one model."),
        "usage": (
            "simulations.usage.hour:main",
            "Report an hour of scripted cards, and hold it against what they drew.",
        ),
    },
)
def main() -> None:
    """Replay traces through the same decision code that the daemons run, in virtual time."""
