"""Bound pods that say by required anti-affinity whom they share no host with. kube-scheduler minds that for every pod that comes.

GPU or not: a database may keep inference off its node. Pods of one template share what they say, so each costs an entry.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from headroom import wire
from scheduler.cluster.host_rules import HOSTNAME, anti_affinity, matches

_PAUSE_EVERY: Final = 256

Terms = tuple[wire.PodAffinityTerm, ...]


class Repelling:
    """What bound pods say, by `namespace/name`."""

    def __init__(self) -> None:
        self._by_pod: dict[str, tuple[str, Terms]] = {}
        """Node and terms."""
        self._known: dict[bytes, Terms] = {}

    def show(self, key: str, pod: wire.Pod) -> None:
        """Take in a pod as it is now."""
        terms = tuple(anti_affinity(pod)) if pod.spec.node_name and pod.spec.affinity is not None else ()
        if not terms:
            self._by_pod.pop(key, None)
            return
        shared = self._known.setdefault(msgspec.json.encode(terms), terms)
        self._by_pod[key] = pod.spec.node_name, shared

    def forget(self, key: str) -> None:
        """Take in that a pod has ended."""
        self._by_pod.pop(key, None)
        if not self._by_pod:
            self._known.clear()

    def against(self, pod: wire.Pod) -> Iterator[tuple[set[str], bool]]:
        """In small steps, between which nothing may change: the nodes that so many more pods keep it off, and whether some of
        them keep it off others, by another topology or by a selector of namespaces, which cannot be judged here.
        """
        verdicts: dict[tuple[str, int], tuple[bool, bool]] = {}
        nodes, unsure = set[str](), False
        for number, (key, (node, terms)) in enumerate(list(self._by_pod.items())):
            namespace = key.partition("/")[0]
            verdict = verdicts.get((namespace, id(terms)))
            if verdict is None:
                verdict = verdicts[namespace, id(terms)] = _verdict(terms, namespace, pod)
            if verdict[0]:
                nodes.add(node)
            unsure |= verdict[1]
            if number % _PAUSE_EVERY == _PAUSE_EVERY - 1:
                yield nodes, unsure
                nodes = set()
        yield nodes, unsure


def _verdict(terms: Terms, namespace: str, pod: wire.Pod) -> tuple[bool, bool]:
    """Whether pods that say this keep the pod off their host, and whether they may keep it off more."""
    off_host = unsure = False
    own = pod.metadata.namespace or "default"
    for term in terms:
        if term.label_selector is None or not matches(term.label_selector, pod.metadata.labels):
            continue
        named = own in (term.namespaces or (() if term.namespace_selector is not None else (namespace,)))
        if named and term.topology_key == HOSTNAME:
            off_host = True
        elif named or term.namespace_selector is not None:
            unsure = True
    return off_host, unsure
