"""The `headroom doctor` command."""

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass

import click

from headroom.commands.cluster import answer_options, cluster_options, connected, no_namespace
from headroom.commands.doctor.checks import Finding, Level, examine
from headroom.commands.doctor.facts import Facts
from headroom.commands.doctor.looking import look
from headroom.daemon.settings import load, options
from headroom.prometheus.client import PrometheusSource
from headroom.prometheus.settings import PrometheusSettings


@dataclass(frozen=True)
class DoctorSettings(PrometheusSettings):
    """Where the metrics are."""


@click.command()
@cluster_options
@answer_options
@no_namespace
@click.option("--strict", is_flag=True, help="End with status 1 for what is at risk, too.")
@options(DoctorSettings)
def main(
    kubeconfig: str | None, context: str | None, system_namespace: str, output: str, strict: bool, **flags: str | None
) -> None:
    """Look at an installation and say what is wrong, why it matters, and the command that mends it.

    Reads only. Ends with status 0 where nothing is broken, 1 where something is.
    """
    settings = load(DoctorSettings, flags)
    findings = examine(asyncio.run(_look(kubeconfig, context, system_namespace, settings)))
    click.echo(as_json(findings) if output == "json" else as_text(findings))
    bad = {Level.BROKEN, Level.RISK} if strict else {Level.BROKEN}
    sys.exit(1 if any(finding.level in bad for finding in findings) else 0)


async def _look(kubeconfig: str | None, context: str | None, system: str, settings: DoctorSettings) -> Facts:
    source = PrometheusSource.of(settings) if settings.prometheus_url else None
    try:
        async with connected(kubeconfig, context) as kube:
            return await look(kube, system, source, time.time())
    finally:
        if source is not None:
            await source.close()


def as_text(findings: list[Finding]) -> str:
    """Findings for people, worst first."""
    if not findings:
        return "Nothing is wrong."
    lines = []
    for finding in findings:
        lines += [f"{finding.level.value}: {finding.what}", f"  why:  {finding.why}", f"  mend: {finding.mend}", ""]
    counts = Counter(finding.level for finding in findings)
    return "\n".join([*lines, ", ".join(f"{counts[level]} {level.value}" for level in Level if counts[level])])


def as_json(findings: list[Finding]) -> str:
    """Findings for programs."""
    values = [{"level": one.level.value, "what": one.what, "why": one.why, "mend": one.mend} for one in findings]
    return json.dumps(values, indent=2)
