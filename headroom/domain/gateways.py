"""What each gateway in front of the engines exports: one row per gateway. Pure data, and the PromQL that reads it.

Names are those of the published sources; `tests/fixtures/gateways/` keeps what was found in them, with versions. A gateway may
export a fact under several names at once (an old one beside the new): the first that is there counts, they are never added.
"""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class GatewayKind:
    """How one kind of gateway is read."""

    name: str
    names_by: str
    """The field of the object that says which part of the gateway is meant: `pool` or `model`."""
    label: str
    """Of that part, in the metrics below."""
    waiting: tuple[str, ...]
    """Requests that wait in it, newest name first."""
    apart: tuple[str, ...]
    """Labels of parts of one gateway that are added; what differs in others is the same seen twice (two Prometheus servers)."""
    alive: tuple[str, ...]
    """Gauges of a pool or model that are there before its first request: then no request waits."""
    known: tuple[str, ...]
    """Gauges that any such gateway exports, whatever its pools: it is scraped."""
    inside: tuple[str, ...] = ()
    """Requests from their arrival to their end, those in the pods too. Where it is needed, `waiting` counts some of them as well."""
    priority: str = ""
    """Label of the priority of requests; below 0 they are offline work that nobody waits for."""
    holds_at_zero: bool = True
    """Whether it keeps requests for a pool without pods."""
    any_case: bool = False
    """Whether the label's value may be spelled in lower case."""


_EPP: Final = ("llm_d_epp", "llm_d_router_epp", "inference_extension")
"""Prefixes of llm-d's endpoint picker, newest first; the last is that of the Gateway API inference extension."""

LLM_D: Final = GatewayKind(
    "llm-d",
    names_by="pool",
    label="inference_pool",
    waiting=tuple(f"{prefix}_flow_control_queue_size" for prefix in _EPP),
    apart=("pod", "instance", "fairness_id", "priority", "model_name", "target_model_name"),
    # Set at every dispatch while flow control is on; of an empty pool it is 1.
    alive=tuple(f"{prefix}_flow_control_pool_saturation" for prefix in _EPP),
    known=(
        *(f"{prefix}_flow_control_pool_saturation" for prefix in _EPP),
        "llm_d_epp_ready_endpoints", "llm_d_router_epp_ready_endpoints", "inference_pool_ready_pods",
    ),
    priority="priority",
)  # fmt: skip

DYNAMO: Final = GatewayKind(
    "dynamo",
    names_by="model",
    label="model",
    # Up to the first token: those in a worker's own queue or prefill are among them, so `inside` tells what no pod has.
    waiting=("dynamo_frontend_queued_requests",),
    apart=("pod", "instance", "model"),
    alive=("dynamo_frontend_model_ready", "dynamo_frontend_model_context_length", "dynamo_frontend_inflight_requests"),
    known=("dynamo_frontend_model_ready", "dynamo_frontend_model_context_length", "dynamo_frontend_inflight_requests"),
    inside=("dynamo_frontend_active_requests", "dynamo_frontend_inflight_requests"),
    # Without workers it knows no such model and answers 404 (ai-dynamo/dynamo#10753).
    holds_at_zero=False,
    any_case=True,
)

GATEWAYS: Final = {kind.name: kind for kind in (LLM_D, DYNAMO)}


def waiting_query(kind: GatewayKind, part: str, namespace: str, *, offline: bool) -> str:
    """Requests waiting at one pool or model, 0 before its first; no answer where the gateway says nothing of it.

    Offline work is left out unless asked for.
    """
    where = _where(kind, part, namespace)
    online = where if offline or not kind.priority else f'{where},{kind.priority}!~"-.*"'
    alive = f"0 * max({{{_any_of(kind.alive)},{where}}})"
    return " or ".join([*_sums(kind, kind.waiting, online), alive])


def inside_query(kind: GatewayKind, part: str, namespace: str) -> str:
    """Requests of one model from arrival to end."""
    return " or ".join(_sums(kind, kind.inside, _where(kind, part, namespace)))


def known_query(kind: GatewayKind, namespace: str) -> str:
    """How many series any gateway of this kind exports there."""
    return f"count({{{_any_of(kind.known)},{_in(namespace)}}})"


def _sums(kind: GatewayKind, names: tuple[str, ...], where: str) -> list[str]:
    return [f"sum(max by ({', '.join(kind.apart)}) ({name}{{{where}}}))" for name in names]


def _where(kind: GatewayKind, part: str, namespace: str) -> str:
    value = f'{kind.label}=~"(?i){_quoted(re.escape(part))}"' if kind.any_case else f'{kind.label}="{_quoted(part)}"'
    return f"{value},{_in(namespace)}"


def _in(namespace: str) -> str:
    """Series without the label count too: not everybody's Prometheus sets it."""
    return f'namespace=~"{_quoted(re.escape(namespace))}|"'


def _any_of(names: tuple[str, ...]) -> str:
    return f'__name__=~"{"|".join(names)}"'


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
