"""Answers of the extender in words and tables that people read top to bottom. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from headroom.units import format_mib

_NODES_SHOWN: Final = 10
_HELD_OR_TRIED: Final = ("placed", "scored", "bound", "bind_failed")
_ENDS: Final = {
    "expired": "it expired before the pod was bound",
    "displaced": "it gave way to a more important pod",
    "node_changed": "the node or its cards changed",
    "moved": "kube-scheduler asked again, or the pod or the node's cards changed",
    "handed_over": "another extender decides now",
}


def explained(answer: Mapping[str, Any]) -> str:
    """The answer of `/v1/explain`."""
    lines = [f"pod {answer.get('pod')}"]
    if "problem" in answer:
        lines.append(f"  problem: {answer['problem']}")
    if "outcome" in answer:
        lines.append(f"  {_outcome(answer)}, {_ago(answer.get('seconds_ago', 0))}")
    if "stage" in answer:
        lines.append(f"  now: {answer['stage']}")
    if "request" in answer:
        lines.append(f"  asks for: {asked(answer['request'])}")
    lines += _group(answer.get("group"))
    if answer.get("without_effect"):
        lines.append(f"  without effect: {', '.join(answer['without_effect'])}")
    if answer.get("claimed_node"):
        lines.append(f"  node {answer['claimed_node']} is being freed for it")
    if answer.get("tried"):
        lines.append(f"  given to it before and turned down by kube-scheduler: {', '.join(answer['tried'])}")
    if answer.get("quota"):
        lines.append(f"  quota: {answer['quota']}")
    if answer.get("measured_vram"):
        lines.append(f"  measured memory: {answer['measured_vram']}")
    lines += _why_not(answer)
    nodes = answer.get("nodes") or []
    if nodes:
        lines += ["", "nodes nearest to fitting:"]
        rows = [
            [str(node["node"]), "fits" if node.get("fits") else str(node.get("reason")), str(node.get("now", ""))]
            for node in nodes
        ]
        lines += [f"  {row}" for row in table(rows[:_NODES_SHOWN])]
    if "this_extender" in answer:
        lines.append(f"asked of an extender that does not decide: {answer['this_extender']}")
    return "\n".join(lines)


def _group(group: Mapping[str, Any] | None) -> list[str]:
    """A pod's group: all of it has its places, or none."""
    if not group:
        return []
    text = f"group {group['name']} ({group['kind']}): {group['members']} members"
    if group.get("takes") is not None:
        text += f", {group['takes']} are placed together"
    elif group.get("problem"):
        text += f"; {group['problem']}"
    if group.get("topology"):
        text += f", within one {group['topology']}"
    if group.get("domain"):
        text += f"; all of its places are in {group['domain']}"
    if group.get("seated"):
        text += f"; {group['seated']} have their places reserved"
    if group.get("rests_seconds"):
        text += f"; it rests for another {group['rests_seconds']:.0f} s"
    return [f"  {text}"]


def _why_not(answer: Mapping[str, Any]) -> list[str]:
    lines = _by_reason(answer.get("reasons", {}))
    lines += _by_reason(answer.get("not_offered", {}), " that kube-scheduler does not offer")
    if answer.get("not_judged"):
        lines.append(f"  not judged here, so that kube-scheduler may refuse more: {', '.join(answer['not_judged'])}")
    return lines


def _outcome(answer: Mapping[str, Any]) -> str:
    placement = answer.get("placement")
    if not placement:
        return str(answer["outcome"])
    shares = ", ".join(
        f"{card}: {format_mib(mib)}"
        for card, mib in zip(placement.get("cards", ()), placement.get("share_mib", ()), strict=False)
    )
    where = f"node {placement['node']} ({shares}; {placement.get('mode')} mode)"
    if answer["outcome"] in _HELD_OR_TRIED:
        return f"{answer['outcome']} on {where}"
    return f"was placed on {where}; that reservation is over: {_ENDS.get(answer['outcome'], answer['outcome'])}"


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"


def asked(request: Mapping[str, Any]) -> str:
    """A demand in words."""
    count, mode = request.get("count", 0), request.get("mode", "")
    if request.get("vram_mib"):
        size = f"{format_mib(request['vram_mib'])} of "
    elif request.get("milli"):
        size = f"{request['milli']} thousandths of "
    else:
        size = ""
    what = request.get("resource") or f"card{'s' if count != 1 else ''}"
    models = f", of {', '.join(request['models'])}" if request.get("models") else ""
    return f"{size}{count} {what} ({mode} mode{models})"


def fitted(answer: Mapping[str, Any], limit: int) -> str:
    """The answer of `/v1/fit`."""
    fits = answer.get("fits", 0)
    more = "at least " if fits >= limit else ""
    lines = [f"{more}{fits} more pod{'s' if fits != 1 else ''} like this fit{'s' if fits == 1 else ''}"]
    if first := answer.get("waiting_first"):
        lines.append(f"  after {first} pod{'s' if first != 1 else ''} that wait{'s' if first == 1 else ''} already")
    nodes = sorted((answer.get("nodes") or {}).items(), key=lambda entry: (-entry[1], entry[0]))
    lines += [f"  {count} on {name}" for name, count in nodes[:_NODES_SHOWN]]
    if len(nodes) > _NODES_SHOWN:
        lines.append(
            f"  and {sum(count for _, count in nodes[_NODES_SHOWN:])} on {len(nodes) - _NODES_SHOWN} other nodes"
        )
    if reasons := _by_reason(answer.get("reasons") or {}):
        lines += ["why not more:", *reasons]
    if answer.get("not_judged"):
        lines.append(f"not judged, so that kube-scheduler may still refuse: {', '.join(answer['not_judged'])}")
    return "\n".join(lines)


def _by_reason(reasons: Mapping[str, int], which: str = "") -> list[str]:
    """A line for each reason with the number of its nodes, most nodes first."""
    ordered = sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))
    return [f"  {count} node{'s' if count != 1 else ''}{which}: {reason}" for reason, count in ordered]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with aligned columns."""
    if not rows:
        return []
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
