"""Variants of one target, on cards of different speed and price: the cheapest mix that is enough, and the way there. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

ENOUGH: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of replica as it is now."""

    price: float
    """Of a replica in an hour, in any currency that all variants share."""
    capacity: float
    """What one replica can do, as a multiple of the reference: the same for all of one target."""
    replicas: int
    """Asked for now."""
    ready: int
    room: int | None = None
    """How many more the cluster can hold (`/v1/fit`); None: not known, which does not limit."""
    least: int = 0
    most: int = 10_000
    missing: int = 0
    """Of the replicas asked for, those that found no node for long: the card is not to be had."""

    @property
    def upto(self) -> int:
        """The most that can be had now."""
        held = self.replicas - self.missing
        if self.room is not None:
            return max(min(self.most, held + self.room), self.least)
        return max(min(self.most, held), self.least) if self.missing else self.most


Counts = tuple[int, ...]


def cheapest(variants: Sequence[Variant], needed: float) -> Counts:
    """Replicas of each variant that do `needed` for the least money; the most that can be had where that is not enough.

    Exact: a search over whole numbers, the variants that do most for their price first, cut off where no rest could be cheaper. Of equally
    cheap mixes the one that is nearest to the present counts. Raises ValueError for a variant whose price or capacity is not above 0.
    """
    for variant in variants:
        if not (variant.price > 0 and variant.capacity > 0):
            raise ValueError(f"price {variant.price} and capacity {variant.capacity} of a variant must be above 0")
    whole = tuple(variant.upto for variant in variants)
    if _does(variants, whole) <= needed + ENOUGH:
        return whole
    order = sorted(range(len(variants)), key=lambda at: variants[at].price / variants[at].capacity)
    search = _Search([variants[at] for at in order], needed)
    search.down(0, needed, 0.0, ())
    found = dict(zip(order, search.best, strict=True))
    return tuple(found[at] for at in range(len(variants)))


class _Search:
    def __init__(self, variants: Sequence[Variant], needed: float) -> None:
        self._variants = variants
        self._rest = [sum(v.upto * v.capacity for v in variants[at:]) for at in range(len(variants) + 1)]
        self.best: Counts = tuple(variant.upto for variant in variants)
        self._least = (float("inf"), 0)

    def down(self, at: int, lacking: float, cost: float, counts: Counts) -> None:
        """Try all counts of the variant `at` that may still be part of a cheaper mix."""
        if lacking > self._rest[at] + ENOUGH:
            return
        if at == len(self._variants):
            moved = _moves(self._variants, counts)
            if (round(cost, 9), moved) < self._least:
                self._least, self.best = (round(cost, 9), moved), counts
            return
        variant = self._variants[at]
        # What is lacking costs at least as much as here, for the later ones do less for their price.
        if cost + max(lacking, 0.0) * variant.price / variant.capacity > self._least[0] + ENOUGH:
            return
        full = min(max(-int(-(lacking - ENOUGH) // variant.capacity), variant.least), variant.upto)
        for count in range(full, variant.least - 1, -1):
            self.down(at + 1, lacking - count * variant.capacity, cost + count * variant.price, (*counts, count))


@dataclass(frozen=True, slots=True)
class Need:
    """What has to be done."""

    units: float
    """By all variants together, in replicas of the reference."""
    alone: tuple[int | None, ...] = ()
    """Replicas of each variant that do it alone, as the law says that is asked in its replicas; None: not known.

    A large card has room in one replica for what small ones must have a spare replica for: less of it may do.
    """

    def is_met(self, variants: Sequence[Variant], counts: Sequence[int]) -> bool:
        """Whether the counts do it together, or those of one variant alone."""
        if _does(variants, counts) + ENOUGH >= self.units:
            return True
        return any(least is not None and count >= least for count, least in zip(counts, self.alone, strict=False))


def cheapest_of(variants: Sequence[Variant], need: Need) -> Counts:
    """The cheapest mix, or one variant alone where that is cheaper: never dearer than the best single one that can be had."""
    mixed = cheapest(variants, need.units)
    options = [mixed] if need.is_met(variants, mixed) else []
    for at, (variant, count) in enumerate(zip(variants, need.alone, strict=False)):
        if count is not None and count <= variant.upto:
            options.append(tuple(max(v.least, count if at == of else 0) for of, v in enumerate(variants)))
    return min(
        options, key=lambda counts: (round(_costs(variants, counts), 9), _moves(variants, counts)), default=mixed
    )


def step(variants: Sequence[Variant], need: Need, *, saving: float = 0.1) -> Counts:
    """What to ask for now on the way to the cheapest mix.

    What is missing is asked for at once. What is there stays, without those too many and with the cheapest addition, while that costs at
    most `saving` more than the cheapest: every exchange is a cold start and a drain, and meanwhile the old and the new are both paid.
    Replicas go only as long as those that are ready are enough without them, the dearest for what they do first.
    """
    goal = cheapest_of(variants, need)
    have = near = tuple(min(v.replicas - v.missing, max(v.most, v.least)) for v in variants)
    if not need.is_met(variants, have):
        kept = [replace(v, least=max(v.least, min(count, v.upto))) for v, count in zip(variants, have, strict=True)]
        near = cheapest_of(kept, need)
    near = _without_surplus(variants, near, need)
    if _costs(variants, near) <= (1 + saving) * _costs(variants, goal) + ENOUGH:
        goal = near
    wanted = [max(now, then) for now, then in zip(have, goal, strict=True)]
    ready = [min(v.ready, n) for v, n in zip(variants, wanted, strict=True)]
    for at in _dearest_first(variants):
        while wanted[at] > max(goal[at], variants[at].least):
            if wanted[at] <= ready[at]:
                rest = [n - (of == at) for of, n in enumerate(ready)]
                if not need.is_met(variants, rest):
                    break
                ready = rest
            wanted[at] -= 1
    return tuple(wanted)


def _without_surplus(variants: Sequence[Variant], counts: Counts, need: Need) -> Counts:
    """The counts without those that are not needed, the dearest for what they do first."""
    kept = list(counts)
    for at in _dearest_first(variants):
        while kept[at] > variants[at].least:
            rest = [n - (of == at) for of, n in enumerate(kept)]
            if not need.is_met(variants, rest):
                break
            kept = rest
    return tuple(kept)


def _moves(variants: Sequence[Variant], counts: Counts) -> int:
    return sum(abs(n - v.replicas) for n, v in zip(counts, variants, strict=True))


def _dearest_first(variants: Sequence[Variant]) -> list[int]:
    return sorted(range(len(variants)), key=lambda at: -variants[at].price / variants[at].capacity)


def _does(variants: Sequence[Variant], counts: Sequence[int]) -> float:
    return sum(n * variant.capacity for n, variant in zip(counts, variants, strict=True))


def _costs(variants: Sequence[Variant], counts: Sequence[int]) -> float:
    return sum(n * variant.price for n, variant in zip(counts, variants, strict=True))
