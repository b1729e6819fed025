"""What a placement policy is, and the keys by which placements compare.

A policy gives every feasible placement a key, a whole number; the larger key wins, and equal keys go to the node whose
name comes first. Keys carry the policy's score in their upper bits and, where the policy wants it, a packing tie-break in the
lower ones. Nothing here depends on the order in which nodes are offered.
"""

from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headroom.domain.model import GpuRequest
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.card_kinds import CARD_KINDS, CardKind
from scheduler.ledger.fleet import Fleet
from scheduler.placement.filtering import BoolArray, Fit
from scheduler.placement.profile import Profile

FloatArray = npt.NDArray[np.float64]

TIE_BITS: Final = 32
_TIE_TOP: Final = 2**31
_REFERENCE_CPU_MILLI: Final = 128_000  # the largest node of the published experiment: scales CPU against cards
_REFERENCE_CARDS: Final = 8


def compose(score: IntArray, tie: IntArray | int = 0) -> IntArray:
    """Keys from whole-number scores of any sign and ties within 0..2^31."""
    return (score << TIE_BITS) + tie


def score_of(key: int) -> int:
    """The score that a key was composed from."""
    return key >> TIE_BITS


def card_units(fleet: Fleet, rows: IntArray) -> IntArray:
    """Free memory of each card in thousandths of the card, rounded down: [rows, width]."""
    return fleet.free_mib[rows] * 1000 // np.maximum(fleet.usable_mib[rows], 1)


def packing_tie(
    fleet: Fleet,
    request: GpuRequest,
    rows: IntArray,
    taken_units: IntArray | FloatArray,
    total_units: IntArray | None = None,
) -> IntArray:
    """Larger for a placement that leaves less CPU and GPU on the node, each against a large node, weighted alike.

    `total_units` [rows] are the thousandths of cards that are free on each row before, where they are known already.
    """
    cpu_left = (fleet.cpu_free_milli[rows] - request.cpu_milli) / _REFERENCE_CPU_MILLI
    total = card_units(fleet, rows).sum(axis=1) if total_units is None else total_units
    gpu_left = (total - taken_units) / (1000 * _REFERENCE_CARDS)
    left = np.minimum(np.maximum((cpu_left + gpu_left) * 1e6, 0), _TIE_TOP - 1).astype(np.int64)
    tie: IntArray = _TIE_TOP - left
    return tie


class Policy:
    """How good each feasible placement is. Subclasses hold their own tables; `version` grows when those change.

    Policies that rest on the workload profile split their preparation in three, so that the slow part can run beside the
    serving path: `inputs` copies what is needed from the fleet (fast), `solve` is pure and may take long, `swap` installs.
    """

    name = ""

    def __init__(self) -> None:
        self.version = 0
        self.draws: np.random.Generator | None = None
        """Set by a policy that draws the node afresh among all that fit."""

    def inputs(self, fleet: Fleet, profile: Profile) -> Any:
        """Copy what `solve` needs; None when the policy has no table."""
        return None

    @staticmethod
    def solve(inputs: Any) -> Any:
        """Make the table that `swap` installs. Pure: safe to run in another thread or process."""
        return None

    def swap(self, table: Any) -> None:
        """Install a finished table."""

    def note(self, row: int, request: GpuRequest, sign: int) -> None:
        """Told by replays that a pod was placed on (+1) or left (-1) a row; for policies that look at who shares a node."""

    def share_keys(
        self, fleet: Fleet, request: GpuRequest, rows: IntArray, line: IntArray, cards: IntArray, need: IntArray
    ) -> IntArray:
        """Keys of putting one share of `need` MiB on card `cards[i]` of row `rows[line[i]]`, for all i."""
        raise NotImplementedError

    def set_keys(self, fleet: Fleet, request: GpuRequest, rows: IntArray, take: IntArray) -> IntArray:
        """Keys of taking `take` [rows, width] MiB from the cards of each row: several shares, given cards, or none."""
        raise NotImplementedError

    def choose_cards(self, fleet: Fleet, request: GpuRequest, fit: Fit) -> IntArray:
        """MiB [rows, width] to take for several shares: by default from the fullest cards with room, ties by index."""
        free = np.where(fit.cards, fleet.free_mib[fit.rows], np.iinfo(np.int64).max)
        return shares_on_first(free.argsort(axis=1, kind="stable"), fit, request.count)

    def card_of_equals(self, fleet: Fleet, rows: IntArray, equal: BoolArray) -> IntArray:
        """Of each row's cards with the same best key, `equal` [rows, width], the one to take: by default the first."""
        best: IntArray = equal.argmax(axis=1)
        return best


def shares_on_first(order: IntArray, fit: Fit, count: int) -> IntArray:
    """MiB [rows, width] taken when the first `count` cards of each row's `order` get a share each."""
    take = np.zeros_like(fit.need)
    first = order[:, :count]
    np.put_along_axis(take, first, np.take_along_axis(fit.need, first, axis=1), axis=1)
    return take


class CardKinds:
    """Numbers the distinct kinds of card (model and usable memory) and knows the kind at every place of a fleet.

    With `by_cpu`, cards whose nodes have clearly more or less CPU per card (by a factor of about 1.4) are different kinds.
    Kind 0 is "no card here, or an unhealthy one". Numbers follow the order of first appearance and never change.
    """

    def __init__(self, *, by_cpu: bool = False) -> None:
        self.usable_mib: list[int] = [0]
        self.model: list[str] = [""]
        self._by_cpu = by_cpu
        self._number: dict[CardKind, int] = {}
        self._of_code = np.zeros(1, np.int64)  # -1 for a code that was not met yet

    def __len__(self) -> int:
        return len(self.usable_mib)

    def at(self, fleet: Fleet, rows: IntArray) -> IntArray:
        """Kind of every card of the rows: [rows, width]."""
        codes = fleet.card_kind[rows]
        if len(self._of_code) < len(CARD_KINDS):
            fresh = np.full(len(CARD_KINDS) - len(self._of_code), -1)
            self._of_code = np.concatenate([self._of_code, fresh])
        kinds: IntArray = self._of_code[codes]
        if kinds.size and kinds.min() < 0:
            for code in dict.fromkeys(codes[kinds < 0].tolist()):
                self._of_code[code] = self._number_of(CARD_KINDS[code])
            kinds = self._of_code[codes]
        return kinds

    def _number_of(self, kind: CardKind) -> int:
        if not self._by_cpu:
            kind = replace(kind, cpu_class=0)
        number = self._number.get(kind)
        if number is None:
            number = self._number[kind] = len(self.usable_mib)
            self.usable_mib.append(kind.usable_mib)
            self.model.append(kind.model)
        return number

    def share_units(self, request: GpuRequest) -> IntArray:
        """Size of one share on each kind in thousandths of the card, rounded up; 1001 where it cannot run: [kinds]."""
        sizes = [1001] * len(self)
        for kind in range(1, len(self)):
            if request.models and self.model[kind] not in request.models:
                continue
            if request.vram_mib > 0:
                sizes[kind] = min(-(-request.vram_mib * 1000 // self.usable_mib[kind]), 1001)
            else:
                sizes[kind] = min(request.milli, 1000) or 1000
        return np.array(sizes, np.int64)


def first_of_equals(fleet: Fleet, rows: IntArray, allowed: BoolArray) -> BoolArray:
    """`allowed` [rows, width] without the cards that equal their left neighbour: trying one of them is enough."""
    free, model = fleet.free_mib[rows], fleet.card_model[rows]
    kept = allowed.copy()
    same = (free[:, 1:] == free[:, :-1]) & (model[:, 1:] == model[:, :-1]) & allowed[:, :-1]
    kept[:, 1:] &= ~(same & (fleet.usable_mib[rows, 1:] == fleet.usable_mib[rows, :-1]))
    return kept
