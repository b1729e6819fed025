"""Which nodes can run a pod, decided for many nodes at once. Why the others cannot, `scheduler.placement.refusals` tells. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from headroom.domain.card_models import is_mig, label_value
from headroom.domain.model import (
    CLAIMED_CARDS,
    WHOLE_MILLI,
    Allocation,
    CardChoice,
    CardMode,
    GpuRequest,
    Mode,
    Sharing,
)
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet

BoolArray = npt.NDArray[np.bool_]

_SIGN_OF_GIVEN: Final = np.array(
    [{Allocation.PACKED: -1, Allocation.UNKNOWN: 0}.get(policy, 1) for policy in Allocation]
)
_SPREAD: Final = list(Allocation).index(Allocation.SPREAD)
_PICKS: Final = 2**16  # more picks of a card than one pod has shares
_FEW_PICKS_FIRST: Final = np.int64(2**40)  # more than the devices that a card has, times _PICKS
_FAR: Final = np.int64(2**60)  # beyond any order of cards
_NO_RESOURCE: Final = -2  # the code of no card
_MPS_CODES: Final = [code for code, sharing in enumerate(Sharing) if sharing in (Sharing.MPS, Sharing.UNKNOWN)]


@dataclass(frozen=True, slots=True)
class Fit:
    """What a request could take on each of `rows`, one line per row.

    `fits` [rows]; `cards` [rows, width]: cards that may hold a share, `need` [rows, width]: MiB of one share there.
    `take` [rows, width] is the MiB that would be held on each card where the cards are not Headroom's to choose (slice
    mode, and pods without a share); None where it chooses among `cards`.
    """

    rows: IntArray
    fits: BoolArray
    cards: BoolArray
    need: IntArray
    take: IntArray | None


def need_mib(fleet: Fleet, request: GpuRequest, rows: IntArray) -> IntArray:
    """MiB that one share of the request holds on each card of each row: [rows, width].

    The rule of `headroom.domain.device_plugin.share_mib`, for many cards at once.
    """
    usable = fleet.usable_mib[rows]
    if request.vram_mib > 0:
        return np.full_like(usable, request.vram_mib)
    if 0 < request.milli < WHOLE_MILLI:
        return np.maximum(usable * request.milli // WHOLE_MILLI, 1)
    if request.mode is Mode.SLICE and request.milli == 0:
        return usable // np.maximum(fleet.slices[rows], 1)
    return usable


class Choice(NamedTuple):
    """Which cards [rows, width] a request may take at all, whatever is free: each mask but the first within the one before."""

    present: BoolArray
    """In working order."""
    offered: BoolArray
    """Handed out under the resource that the pod names, or open to Headroom's own choice."""
    of_model: BoolArray
    """Of a model that the pod accepts."""
    accepted: BoolArray
    """Within the other limits that the pod states."""
    sure: BoolArray
    """In working order, and not perhaps held by a resource claim of which nothing tells yet what it holds."""
    allowed: BoolArray
    """With memory known where the pod asks for a part of it."""


def _offered(fleet: Fleet, request: GpuRequest, rows: IntArray) -> BoolArray:
    if request.mode is Mode.PINNED:
        return fleet.claimable[rows] if request.resource == CLAIMED_CARDS else fleet.pinnable[rows]
    offered: BoolArray = fleet.card_resource[rows] == fleet.resource_code.get(request.resource, _NO_RESOURCE)
    return offered


def choice_of(fleet: Fleet, request: GpuRequest, rows: IntArray) -> Choice:
    """Which cards of the rows the request may take at all."""
    present = fleet.usable_mib[rows] > 0
    of_model = offered = _offered(fleet, request, rows)
    if request.models:
        wanted = np.zeros(len(fleet.models) + 1, np.bool_)  # the last place answers for "no card", code -1
        for model in request.models:
            code = fleet.model_code.get(model)
            if code is not None:
                wanted[code] = True
        of_model = offered & (wanted[fleet.card_model[rows]] | fleet.model_matched[rows])
    accepted = of_model if request.choice is None else of_model & _accepted(fleet, request.choice, rows)
    sure = accepted & present
    if fleet.claims_matter and request.resource != CLAIMED_CARDS:
        sure &= ~_perhaps_claimed(fleet, request, rows)
    allowed = sure & fleet.sized[rows] if request.sized else sure
    return Choice(present, offered, of_model, accepted, sure, allowed)


def no_card(cards: BoolArray) -> BoolArray:
    """[rows]: whether no card of the row has it."""
    return ~any_card(cards)


def any_card(cards: BoolArray) -> BoolArray:
    """[rows]: whether any card of the row has it."""
    return np.logical_or.reduce(cards, axis=1)  # type: ignore[no-any-return]


def may_hold(fleet: Fleet, request: GpuRequest, rows: IntArray) -> BoolArray:
    """Cards [rows, width] that could hold a share of the request if nothing else were there."""
    return choice_of(fleet, request, rows).allowed


def _perhaps_claimed(fleet: Fleet, request: GpuRequest, rows: IntArray) -> BoolArray:
    """Cards [rows, width] that a claim may hold of which only the node is known.

    Where no ResourceSlices tell which cards can be claimed it may be any. A pod that gets its devices from kube-scheduler's allocator
    is no worse off: that knows what it has allocated.
    """
    claimable = fleet.claimable[rows]
    may_be = claimable | no_card(claimable)[:, None]
    if request.mode is Mode.SLICE:
        may_be &= ~fleet.by_allocator[rows]
    return may_be & (fleet.promised[rows] > 0)[:, None]


def allocates(fleet: Fleet, request: GpuRequest, rows: IntArray) -> BoolArray:
    """[rows]: whether kube-scheduler would allocate the devices that the pod asks for (DRA), and no device plugin hand them out."""
    if not fleet.claims_matter or request.mode is not Mode.SLICE or request.count == 0:
        return np.zeros(len(rows), np.bool_)
    return any_card(fleet.by_allocator[rows] & _offered(fleet, request, rows))


def _accepted(fleet: Fleet, choice: CardChoice, rows: IntArray) -> BoolArray:
    """Cards [rows, width] within a pod's own limits."""
    kept = np.ones((len(rows), fleet.width), np.bool_)
    if choice.models or choice.not_models:
        kept &= _of_models(fleet, rows, lambda model: _holds_words(model, choice))
    if choice.modes:
        mig = _of_models(fleet, rows, is_mig)
        mps = np.isin(fleet.sharing[rows], _MPS_CODES)[:, None] & ~mig
        by_mode = {CardMode.MIG: mig, CardMode.MPS: mps, CardMode.HAMI_CORE: ~mig & ~mps}
        kept &= np.logical_or.reduce([by_mode[mode] for mode in choice.modes])
    if choice.idle:
        kept &= (fleet.held_mib[rows] == 0) & (fleet.pinned[rows] == 0) & (fleet.plugin[rows] == 0)
    if choice.ids or choice.not_ids:
        for line, row in enumerate(rows.tolist()):
            node = fleet.nodes.get(fleet.names[row])
            for at, card in enumerate(node.cards if node is not None else ()):
                named = not choice.ids or card.id in choice.ids
                kept[line, at] &= named and card.id not in choice.not_ids
    return kept


def _of_models(fleet: Fleet, rows: IntArray, is_so: Callable[[str], bool]) -> BoolArray:
    by_code = np.array(
        [*(is_so(model) for model in fleet.models), False]
    )  # the last place answers for "no card", code -1
    return by_code[fleet.card_model[rows]]


def _holds_words(model: str, choice: CardChoice) -> bool:
    """Whether a model's name holds a word that is wanted, and none that is not; HAMi puts the vendor before the name."""
    name = f"NVIDIA-{model}".upper()

    def holds_one(words: frozenset[str]) -> bool:
        # A word without one character that a model's name can have is in none, though nothing is left of it.
        return any(spelt.upper() in name for spelt in map(label_value, words) if spelt)

    return (not choice.models or holds_one(choice.models)) and not holds_one(choice.not_models)


def most_mib(fleet: Fleet, request: GpuRequest, rows: IntArray) -> IntArray:
    """The most that the request would hold on each row, all its shares together: [rows]."""
    need = np.where(choice_of(fleet, request, rows).allowed, need_mib(fleet, request, rows), 0)
    most: IntArray = need.max(axis=1, initial=0) * request.count
    return most


def host_fits(fleet: Fleet, request: GpuRequest, rows: IntArray) -> BoolArray:
    """Whether CPU and host memory suffice; in a cluster that question is kube-scheduler's own."""
    return (fleet.cpu_free_milli[rows] >= request.cpu_milli) & (fleet.memory_free_mib[rows] >= request.memory_mib)


def fit(fleet: Fleet, request: GpuRequest, rows: IntArray, *, check_host: bool = False) -> Fit:
    """Test the request against the given rows. Empty rows never fit, cordoned ones where the pod tolerates that, untold ones not yet."""
    ready = fleet.alive[rows] & (fleet.schedulable[rows] | request.on_cordoned)
    if fleet.untold_nodes:
        ready = ready & ~fleet.untold[rows]
    if check_host:
        ready = ready & host_fits(fleet, request, rows)
    need = need_mib(fleet, request, rows)
    if request.count == 0:
        nothing = np.zeros_like(need)
        return Fit(rows, ready, np.zeros_like(need, np.bool_), need, nothing)
    choice = choice_of(fleet, request, rows)
    allowed = choice.allowed
    if request.mode is Mode.SLICE:
        fits, take = _fit_slices(fleet, request, rows, choice, need)
        allocated = allocates(fleet, request, rows)
        if allocated.any():
            fits[allocated], take[allocated] = _fit_allocated(fleet, request, rows, choice, need, allocated)
        return Fit(rows, ready & fits, allowed, need, take)
    cards = allowed & (fleet.free_mib[rows] >= need) & (fleet.plugin[rows] == 0)
    if fleet.claims_matter and request.resource != CLAIMED_CARDS:
        cards &= fleet.claimed[rows] == 0
    if request.whole_cards:
        cards &= (fleet.held_mib[rows] == 0) & (fleet.pinned[rows] == 0)
    return Fit(rows, ready & (cards.sum(axis=1) >= request.count), cards, need, None)


def _fit_slices(
    fleet: Fleet, request: GpuRequest, rows: IntArray, choice: Choice, need: IntArray
) -> tuple[BoolArray, IntArray]:
    """Slice mode: the device plugin picks the cards, so the pod must fit on the ones it will pick."""
    shared = any_card((fleet.slices[rows] > 1) & choice.offered)
    allowed = choice.allowed & (need <= fleet.limit_mib[rows])
    free = np.where(allowed, fleet.free_mib[rows], -1)
    shares, room = _predict(fleet, rows, choice.offered, request.count, free, need)
    take = shares * need
    enough = shares.sum(axis=1) == request.count
    # An exclusive plugin may hand out any card it has left: all of those must do.
    left = choice.offered & (fleet.plugin[rows] == 0) & (fleet.slices[rows] > 0)
    suitable = left & allowed & (fleet.pinned[rows] == 0) & (fleet.free_mib[rows] >= need)
    if fleet.claims_matter:
        suitable &= fleet.claimed[rows] == 0  # of which a device plugin knows nothing
    any_will_do = (suitable == left).all(axis=1)
    fits = enough & room & (shared | any_will_do)
    doubtful = np.isin(rows, fleet.under_way.rows) & enough
    if request.count > 1:
        doubtful |= fits & shared  # of several devices each may turn the plugin to another card
    code = fleet.resource_code.get(request.resource, _NO_RESOURCE)
    suits = allowed & (shared[:, None] | (fleet.pinned[rows] == 0))
    for at in np.flatnonzero(doubtful).tolist():
        fits[at] = fleet.under_way.has_room(
            fleet, int(rows[at]), code, need[at].tolist(), request.count, suits[at].tolist()
        )
    return fits & ~too_many_at_once(fleet, request, rows), take


def _fit_allocated(
    fleet: Fleet, request: GpuRequest, rows: IntArray, choice: Choice, need: IntArray, allocated: BoolArray
) -> tuple[BoolArray, IntArray]:
    """The same where kube-scheduler allocates (DRA), for the rows [rows] that `allocated` marks.

    It takes the first devices that it finds free, and what pods before this one got may not be known yet: so the pod must fit on any
    device that is left, beside as many of those as fit there. It is supposed to get the first after theirs.
    """
    rows, choice, need = rows[allocated], Choice(*(mask[allocated] for mask in choice)), need[allocated]
    promised = fleet.promised[rows]
    free = np.where(choice.offered & fleet.by_allocator[rows], fleet.slices_free[rows], 0)
    on_one_card = np.minimum(free, (promised + request.count)[:, None])
    suitable = choice.allowed & (fleet.pinned[rows] == 0) & (fleet.plugin[rows] == 0)
    suitable &= (fleet.free_mib[rows] >= need * on_one_card) & (need <= fleet.limit_mib[rows])
    after = free.cumsum(axis=1)
    first, last = promised[:, None], (promised + request.count)[:, None]
    shares = np.clip(after, first, last) - np.clip(after - free, first, last)
    return (suitable | (free == 0)).all(axis=1) & (shares.sum(axis=1) == request.count), shares * need


def too_many_at_once(fleet: Fleet, request: GpuRequest, rows: IntArray) -> BoolArray:
    """Whether the plugin refuses the pod because one of its containers asks for several shared devices."""
    if request.count <= 1 or request.one_device_each:
        return np.zeros(len(rows), np.bool_)
    return fleet.one_device_each[rows]


def _predict(
    fleet: Fleet, rows: IntArray, offered: BoolArray, count: int, free: IntArray, need: IntArray
) -> tuple[IntArray, BoolArray]:
    """How many of `count` devices the plugin will hand out on each card, and whether there is room wherever it may go.

    [rows, width] and [rows]. `offered` [rows, width] are the plugin's cards. The rule of
    `headroom.domain.device_plugin.greedy_cards`, for many nodes at once; fewer than `count` where the plugin has no more.
    Between cards that are alike to it the plugin goes by the order of a hash table, so that any of them may be taken: each
    must have room in `free` for what it would then hold of `need`. The shares are told of the lowest index among them.
    """
    given = fleet.plugin[rows].copy()
    left = np.where(offered, fleet.slices_free[rows], 0)
    allocation = fleet.allocation[rows]
    usual = not allocation.any()  # all of them `distributed`
    sign = _SIGN_OF_GIVEN[allocation][:, None]
    first = np.where(allocation == _SPREAD, _FEW_PICKS_FIRST, 1)[:, None]
    shares = np.zeros_like(given)
    room = np.ones(len(rows), np.bool_)
    at = np.arange(len(rows))
    for _ in range(min(count, int(left.sum(axis=1).max(initial=0)))):
        order = given * _PICKS + shares if usual else sign * given * _PICKS + shares * first
        order = np.where(left > 0, order, _FAR)
        pick = order.argmin(axis=1)
        alike = (left > 0) & (order == order[at, pick][:, None])
        room &= (~alike | (free >= (shares + 1) * need)).all(axis=1)
        some = (left[at, pick] > 0).astype(np.int64)
        shares[at, pick] += some
        given[at, pick] += some
        left[at, pick] -= some
    return shares, room
