"""An advice for the terminal and for programs."""

from typing import Any

from headroom.units import format_mib
from simulations.advise.advice import Advice

_SHOWN = 10


def as_text(advice: Advice, *, asked: bool = False) -> str:
    """What a person reads from top to bottom: the answer first, then where it comes from.

    `asked`: Prometheus was asked for use.
    """
    lines = [
        f"{len(advice.tenants)} running pods hold {advice.held} of {advice.fleet} cards. Placed by memory they would need {advice.would}:"
        f" {advice.saved} cards free."
        + (f" That is {money(advice, advice.month_saved)} a month." if advice.month_saved else ""),
        _basis(advice, asked),
        "",
        *_models(advice),
        *_over_asking(advice),
        *_list("Cards that idle (kernels ran less than 5 % of the time, even at busy times):", _idle(advice)),
        *_list("At risk:", advice.findings.risks),
        *_list("Not understood, and left out:", advice.problems),
    ]
    return "\n".join(lines).rstrip("\n")


def money(advice: Advice, amount: float | None) -> str:
    """Whole units of the tariff's currency."""
    return "" if amount is None else f"{advice.currency} {amount:,.0f}".strip()


def _basis(advice: Advice, asked: bool) -> str:
    total = len(advice.tenants)
    if not advice.measured:
        why = (
            "Prometheus has no DCGM_FI_DEV_FB_USED of these pods: is dcgm-exporter scraped? Therefore"
            if asked
            else "No use was measured (--prometheus-url):"
        )
        return (
            f"{why} sizes are those that pods state; a pod that states none keeps whole cards,"
            " so the saving is the least there is."
        )
    rest = f"; the other {total - advice.measured} keep what they have" if advice.measured < total else ""
    return f"Sizes come from the memory and time that {advice.measured} of {total} pods really used{rest}."


def _models(advice: Advice) -> list[str]:
    width = max([len(line.model) for line in advice.lines], default=5)
    head = f"{'card model':<{width}} {'cards':>7} {'held':>7} {'would do':>9}" + (
        f" {'saved a month':>16}" if advice.month_saved else ""
    )
    rows = [
        f"{line.model:<{width}} {line.cards:>7} {line.held:>7} {line.would:>9}"
        + (f" {money(advice, line.month_saved):>16}" if advice.month_saved else "")
        for line in advice.lines
    ]
    return [head, *rows, ""]


def _over_asking(advice: Advice) -> list[str]:
    found = advice.findings.over_asking
    if not found:
        return []
    lines = ["Workloads that ask for far more than they ever used:"]
    for one in found[:_SHOWN]:
        busy = "" if one.busy_high is None else f", busy {one.busy_high:.0%}".replace("%", " %")
        lines.append(
            f"  {one.workload}: {one.pods} pods ask for {one.asks}, used at most {format_mib(one.peak_mib)}{busy};"
            f" {format_mib(one.wanted_mib)} would do"
        )
        if one.kubectl:
            lines.append(f"    {one.kubectl}")
    if len(found) > _SHOWN:
        lines.append(f"  and {len(found) - _SHOWN} more (-o json, or --patches DIR for all patches)")
    return [*lines, ""]


def _idle(advice: Advice) -> list[str]:
    return [f"{workload}: {cards} card{'s' if cards > 1 else ''}" for workload, cards in advice.findings.idle]


def _list(title: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    more = [f"  and {len(entries) - _SHOWN} more (-o json)"] if len(entries) > _SHOWN else []
    return [title, *(f"  {entry}" for entry in entries[:_SHOWN]), *more, ""]


def as_values(advice: Advice) -> dict[str, Any]:
    """Plain values; memory in MiB, money in the tariff's currency."""
    return {
        "pods": {"running": len(advice.tenants), "waiting": advice.waiting, "measured": advice.measured},
        "cards": {"held": advice.held, "wouldDo": advice.would},
        "currency": advice.currency,
        "savedPerMonth": advice.month_saved,
        "models": [
            {
                "model": line.model, "cards": line.cards, "held": line.held, "wouldDo": line.would,
                "savedPerMonth": line.month_saved,
            }
            for line in advice.lines
        ],
        "sharedCards": [
            {
                "node": node, "card": at,
                "pods": [{"pod": advice.tenants[index].pod.key, "mib": mib} for index, mib in pods],
            }
            for (node, at), pods in sorted(advice.then.cards.items())
            if len(pods) > 1
        ],
        "overAsking": [
            {
                "workload": one.workload, "pods": one.pods, "askedMib": one.asked_mib, "asks": one.asks, "peakMib": one.peak_mib,
                "busyHigh": one.busy_high, "wantedMib": one.wanted_mib, "patch": one.patch,
            }
            for one in advice.findings.over_asking
        ],
        "idle": [{"workload": workload, "cards": cards} for workload, cards in advice.findings.idle],
        "risks": advice.findings.risks,
        "notPlacedAnew": [advice.tenants[index].pod.key for index in advice.then.unplaced],
        "problems": advice.problems,
    }  # fmt: skip
