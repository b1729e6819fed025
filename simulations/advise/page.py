"""An advice as the values that the HTML page names and draws."""

from collections.abc import Callable
from typing import Any

from headroom import __version__
from headroom.units import format_mib
from simulations.advise.advice import Advice
from simulations.advise.replay import Map
from simulations.advise.tenants import Rules, Tenant
from simulations.advise.text import money


def page_of(advice: Advice, rules: Rules, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the template names, and what the script draws."""
    owners = sorted({_owner(tenant) for tenant in advice.tenants})
    nodes = [
        advice.nodes[name] for name in sorted(advice.nodes, key=lambda name: (advice.nodes[name].cards[0].model, name))
    ]
    row_of = {node.name: row for row, node in enumerate(nodes)}

    def shares(placed: Map, shown: Callable[[Tenant, int], int]) -> list[list[Any]]:
        return [
            [row_of[node], at, owners.index(_owner(tenant)), shown(tenant, mib), tenant.pod.key]
            for (node, at), pods in sorted(placed.cards.items())
            for tenant, mib in ((advice.tenants[index], mib) for index, mib in pods)
        ]

    page = {
        "source": source,
        "advice": advice,
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
        "now": shares(advice.now, _used),
        "then": shares(advice.then, lambda _, mib: mib),
    }
    return page, data


def _owner(tenant: Tenant) -> str:
    return tenant.pod.metadata.namespace or "default"


def _used(tenant: Tenant, mib: int) -> int:
    """Today's map shows what pods really use where that is known, so that what is held and idle can be seen."""
    return min(tenant.use.peak_mib or mib, max(tenant.usable_mib, 1))
