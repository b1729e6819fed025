"""The `headroom` command. Subcommands are loaded when they are called: each daemon pays only for its own imports."""

import importlib
import sys

import click

from headroom import __version__
from headroom.errors import HeadroomError, why


class LazyGroup(click.Group):
    """A group whose subcommands are named by import string, `module:attribute`, with a line of help each."""

    def __init__(self, *args: object, lazy: dict[str, tuple[str, str]] | None = None, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self._lazy:
            return super().get_command(ctx, name)
        module, attribute = self._lazy[name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if args[0].startswith("-"):
                raise
            import difflib  # only here: every command would pay for it

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "`headroom --help` lists them"
            raise click.UsageError(f"No such command {args[0]!r}: {hint}", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            if name in self._lazy:
                rows.append((name, self._lazy[name][1]))
            else:
                command = super().get_command(ctx, name)
                rows.append((name, command.get_short_help_str() if command else ""))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(
    cls=LazyGroup,
    lazy={
        "scheduler": ("scheduler.__main__:main", "Serve the kube-scheduler extender."),
        "autoscaler": ("autoscaler.__main__:main", "Scale inference workloads, or explain what would be done."),
        "agent": ("agent.__main__:main", "Report what this node's cards really do."),
        "usage": ("agent.usage.cli:main", "GPU hours, energy, carbon and cost by project."),
        "advise": ("simulations.advise.cli:main", "Say what Headroom would save on the cluster as it runs today."),
        "clean-nodes": ("headroom.commands.clean:main", "Take Headroom's annotations off the nodes, after it is gone."),
        "convert": (
            "headroom.commands.convert.cli:main",
            "Turn manifests of HAMi, gpushare, HPA and KEDA into Headroom's.",
        ),
        "doctor": ("headroom.commands.doctor.cli:main", "Say what is wrong with an installation, and what mends it."),
        "explain": ("headroom.commands.ask.cli:explain", "Say what was decided for a pod or an InferenceAutoscaler."),
        "fit": ("headroom.commands.ask.cli:fit", "Say how many more pods like this one fit, and why not more."),
        "top": ("headroom.commands.ask.top:top", "Show every card: what is declared, used, busy, and who holds what."),
        "estimate": ("headroom.commands.estimate.cli:main", "Say how much GPU memory a model needs."),
        "simulate": ("simulations.cli:main", "Replay traces through the same decision code."),
        "demo": ("simulations.demo.cli:main", "Show the whole product without a GPU."),
        "bench": ("simulations.bench.cli:main", "Measure latency, throughput and memory."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, prog_name="headroom")
def cli() -> None:
    """Headroom makes GPUs on Kubernetes go further for LLM inference."""


def main() -> None:
    """Entry point: errors that Headroom can explain end with one line each and exit status 1, not with a traceback."""
    try:
        cli(prog_name="headroom")
    except (HeadroomError, OSError, BaseExceptionGroup) as error:
        from headroom.kube.client import Unauthorized, Unreachable

        lines = _lines_of(error)
        if lines is None:
            raise
        for line in lines:
            click.echo(f"error: {line}", err=True)
        if _caused_by(error, Unauthorized):
            click.echo("your login has expired or is unknown: try `kubectl auth whoami`", err=True)
        if _caused_by(error, Unreachable):
            click.echo("try `kubectl cluster-info`; --kubeconfig and --context choose another cluster", err=True)
        sys.exit(1)


def _caused_by(error: BaseException | None, kind: type[HeadroomError]) -> bool:
    """Whether such an error is why something else went wrong."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error is not None


def _lines_of(error: BaseException) -> list[str] | None:
    """What to tell a person, None for an error that nobody foresaw: a file that was named, or errors of our own."""
    if isinstance(error, BaseExceptionGroup):
        parts = [_lines_of(one) for one in error.exceptions]
        return None if None in parts else [line for part in parts if part is not None for line in part]
    if isinstance(error, HeadroomError):
        return str(error).splitlines() or [type(error).__name__]
    if isinstance(error, OSError) and error.filename:
        return [f"{error.filename}: {why(error)}"]
    return None


if __name__ == "__main__":
    main()
