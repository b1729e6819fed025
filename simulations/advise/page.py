"""An advice as the values that the HTML page names and draws."""

from typing import Any

from headroom import __version__
from headroom.units import format_mib
from simulations.advise.advice import Advice
from simulations.advise.replay import Map
from simulations.advise.tenants import Rules
from simulations.advise.text import money


def page_of(advice: Advice, rules: Rules, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the template names, and what the script draws."""
    owners = sorted({tenant.pod.metadata.namespace or "default" for tenant in advice.tenants})
    nodes = [
        advice.nodes[name] for name in sorted(advice.nodes, key=lambda name: (advice.nodes[name].cards[0].model, name))
    ]
    row_of = {node.name: row for row, node in enumerate(nodes)}

    def shares(placed: Map) -> list[list[Any]]:
        return [
            [
                row_of[node],
                at,
                owners.index(advice.tenants[index].pod.metadata.namespace or "default"),
                mib,
                _label(advice, index),
            ]
            for (node, at), pods in sorted(placed.cards.items())
            for index, mib in pods
        ]

    page = {
        "source": source,
        "advice": advice,
        "fleet": sum(line.cards for line in advice.lines),
        "saved": advice.held - advice.would,
        "month": money(advice, advice.month_saved),
        "money": lambda amount: money(advice, amount),
        "mib": format_mib,
        "rules": rules,
        "version": __version__,
    }
    data = {
        "owners": owners,
        "nodes": [
            {"name": node.name, "type": node.cards[0].model, "cards": [max(card.usable_mib, 1) for card in node.cards]}
            for node in nodes
        ],
        "whole": [
            [row_of[node], at]
            for (node, at), pods in sorted(advice.now.cards.items())
            if len(pods) == 1
            and advice.tenants[pods[0][0]].stated_mib is None
            and advice.nodes[node].cards[at].slices == 1
        ],
        "now": _now_shares(advice, row_of, owners),
        "then": shares(advice.then),
    }
    return page, data


def _label(advice: Advice, index: int) -> str:
    return advice.tenants[index].pod.key


def _now_shares(advice: Advice, row_of: dict[str, int], owners: list[str]) -> list[list[Any]]:
    """Today's map shows what pods really use where that is known, so that what is held and idle can be seen."""
    found = []
    for (node, at), pods in sorted(advice.now.cards.items()):
        for index, mib in pods:
            tenant = advice.tenants[index]
            used = tenant.use.peak_mib if tenant.use is not None and tenant.use.peak_mib else mib
            owner = owners.index(tenant.pod.metadata.namespace or "default")
            found.append([row_of[node], at, owner, min(used, max(tenant.usable_mib, 1)), _label(advice, index)])
    return found
