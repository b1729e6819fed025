"""`/v1/cards` as a picture for a terminal: a line for each card, as wide as there is room. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from headroom.commands.ask.words import asked
from headroom.units import format_mib

WIDE_COLUMNS: Final = 100
"""Terminals below it get no model, no free memory, a shorter bar and shorter names."""
_TINY_COLUMNS: Final = 64
_BAR: Final = " "
_TITLES: Final = (
    ("NODE", "CARD", _BAR, "BUSY"),
    ("NODE", "CARD", _BAR, "DECLARED", "USED", "BUSY"),
    ("NODE", "CARD", "MODEL", _BAR, "DECLARED", "USED", "FREE", "BUSY"),
)
"""Columns of tiny, narrow and wide terminals; the pods have what is left."""
_PODS: Final = "PODS, GiB"
_REFUSED_SHOWN: Final = 5
_GAP: Final = "  "
_UNICODE: Final = "█▒!·"
_ASCII: Final = "#=!."
"""Declared and used; declared, not used; used beyond what is declared; free."""
_COLOURS: Final = ("green", "yellow", "red", None)

Card = Mapping[str, Any]


def picture(
    page: Mapping[str, Any], *, columns: int, rows: int | None = None, unicode: bool = True, colour: bool = True
) -> list[str]:
    """Lines of at most `columns` visible characters; with `rows`, cards are left out at the end so that all fits."""
    nodes = page.get("nodes") or []
    head, foot = _summary(nodes, page), _foot(page, unicode=unicode)
    cards = [(node, card) for node in nodes for card in node["cards"]]
    shown = cards
    if rows is not None and len(head) + len(cards) + len(foot) + 2 > rows:  # titles, and where the cursor rests
        shown = cards[: max(rows - len(head) - len(foot) - 3, 1)]
        foot = [f"and {len(cards) - len(shown)} more cards (--once shows all, --node one node's)", *foot]
    body = _table(shown, columns, unicode=unicode, colour=colour) if shown else ["no card is known"]
    return [
        *(_cut(line, columns, unicode=unicode) for line in head),
        *body,
        *(_cut(line, columns, unicode=unicode) for line in foot),
    ]


def _summary(nodes: Sequence[Mapping[str, Any]], page: Mapping[str, Any]) -> list[str]:
    cards = [card for node in nodes for card in node["cards"]]
    pods = {pod["pod"] for card in cards for pod in card["pods"]}
    usable, declared = (sum(card[name] for card in cards) for name in ("usable_mib", "declared_mib"))
    used = [card["used_mib"] for card in cards if card["used_mib"] is not None]
    busy = [card["busy_ratio"] for card in cards if card["busy_ratio"] is not None]
    words = [
        f"{_number(len(cards), 'card')} on {_number(len(nodes), 'node')}, {format_mib(usable)}:"
        f" {format_mib(declared)} declared by {_number(len(pods), 'pod')} ({_percent(declared, usable)})",
    ]
    if used:
        words.append(f"{format_mib(sum(used))} used" + (f" on {len(used)} of them" if len(used) < len(cards) else ""))
    if busy:
        words.append(f"busy {100 * sum(busy) / len(busy):.0f} %")
    words.append(f"{sum(not card['pods'] for card in cards)} without a pod")
    return [", ".join(words), *_waiting(page)]


def _waiting(page: Mapping[str, Any]) -> list[str]:
    counts = page.get("waiting") or {}
    told = [f"{number} {stage}" for stage, number in counts.items() if number]
    lines = [f"pods that wait: {', '.join(told)}"] if told else []
    refused = page.get("refused_pods") or []
    lines += [f"  {pod['pod']} fits nowhere: {asked(pod['request'])}" for pod in refused[:_REFUSED_SHOWN]]
    if (more := counts.get("refused", len(refused)) - _REFUSED_SHOWN) > 0:
        lines.append(f"  and {more} more")
    return lines


def _foot(page: Mapping[str, Any], *, unicode: bool) -> list[str]:
    used, spare, beyond, free = _UNICODE if unicode else _ASCII
    lines = [f"{used} declared and used  {spare} declared, not used  {beyond} used beyond that  {free} free"]
    for title, words in (("memory in use", page.get("measured")), ("busy", page.get("busy"))):
        if words and ("not read" in words or "match no card" in words or "too old" in words or "left out" in words):
            lines.append(f"{title}: {words}")
    lines += [f"node {name}: {problem}" for name, problem in (page.get("problems") or {}).items()]
    if "this_extender" in page:
        lines.append(f"asked of an extender that does not decide: {page['this_extender']}")
    return lines


def _table(cards: Sequence[tuple[Mapping[str, Any], Card]], columns: int, *, unicode: bool, colour: bool) -> list[str]:
    titles = _TITLES[sum(columns >= least for least in (_TINY_COLUMNS, WIDE_COLUMNS))]
    bar_at, cells = titles.index(_BAR), 20 if columns >= WIDE_COLUMNS else 8
    longest_name = min(max(columns // 4, 8), 40)
    texts = [[title.strip() for title in titles]]
    before = None
    for node, card in cards:
        name = "" if node is before else _cut(_node_words(node), longest_name, unicode=unicode)
        before = node
        found = {
            "NODE": name,
            "CARD": str(card["index"]),
            "MODEL": _cut(str(card["model"]).removeprefix("NVIDIA-"), 20, unicode=unicode),
            "DECLARED": f"{_gib(card['declared_mib'])}/{_gib(card['usable_mib'])}",
            "USED": "-" if card["used_mib"] is None else _gib(card["used_mib"]),
            "FREE": _gib(card["free_mib"]),
            "BUSY": "-" if card["busy_ratio"] is None else f"{100 * card['busy_ratio']:.0f} %",
        }
        texts.append([found.get(title, "") for title in titles])
    widths = [max(len(row[at]) for row in texts) for at in range(len(titles))]
    widths[bar_at] = cells
    room = columns - sum(widths) - len(_GAP) * len(widths)
    lines = [_row(texts[0], widths, bar_at, " " * cells) + _GAP + (_PODS if room >= len(_PODS) else "")]
    for row, (_, card) in zip(texts[1:], cards, strict=True):
        bar = _bar(card, cells, unicode=unicode, colour=colour)
        lines.append(_row(row, widths, bar_at, bar) + _GAP + _pods(card["pods"], room, unicode=unicode))
    return [line.rstrip() for line in lines]


def _row(texts: Sequence[str], widths: Sequence[int], bar_at: int, bar: str) -> str:
    """Text to the left of the bar, figures to its right."""
    parts = [
        bar if at == bar_at else text.ljust(width) if at < bar_at else text.rjust(width)
        for at, (text, width) in enumerate(zip(texts, widths, strict=True))
    ]
    return _GAP.join(parts)


def _bar(card: Card, cells: int, *, unicode: bool, colour: bool) -> str:
    signs = _UNICODE if unicode else _ASCII
    usable, declared = max(card["usable_mib"], 1), card["declared_mib"]
    used = declared if card["used_mib"] is None else card["used_mib"]
    ends = [min(round(cells * mib / usable), cells) for mib in (min(declared, used), declared, max(declared, used))]
    if declared and not ends[1]:
        ends[1:] = [1, max(ends[2], 1)]
    counts = [ends[0], ends[1] - ends[0], ends[2] - ends[1], cells - ends[2]]
    parts = zip(signs, counts, _COLOURS, strict=True)
    return "".join(
        click.style(sign * number, fg=shade) if colour and shade and number else sign * number
        for sign, number, shade in parts
    )


def _pods(pods: Sequence[Mapping[str, Any]], room: int, *, unicode: bool) -> str:
    """As many pods as there is room for, and how many more there are."""
    texts = [
        f"{pod['pod']} {_gib(pod['share_mib'])}{'' if pod['state'] == 'bound' else ' (' + pod['state'] + ')'}"
        for pod in pods
    ]
    for shown in range(len(texts), 0, -1):
        rest = f" +{len(texts) - shown}" if shown < len(texts) else ""
        line = ", ".join(texts[:shown]) + rest
        if len(line) <= room:
            return line
    if not texts or room < 4:
        return ""
    rest = f" +{len(texts) - 1}" if len(texts) > 1 else ""
    return _cut(texts[0], room - len(rest), unicode=unicode) + rest


def _node_words(node: Mapping[str, Any]) -> str:
    return str(node["node"]) + ("" if node["schedulable"] else " (cordoned)")


def _cut(text: str, columns: int, *, unicode: bool) -> str:
    if len(text) <= columns:
        return text
    mark = "…" if unicode else "~"
    return text[: max(columns - len(mark), 0)] + mark


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
