"""HAMi's words (https://github.com/Project-HAMi/HAMi), and Volcano's vGPU words, which are made after them."""

from typing import Final

from headroom import names
from headroom.domain.dialects.words import Annotation, Companion, Count, Family, Size, Unit, Wishes, WordError
from headroom.domain.model import CardMode, Order

_NO_CORES: Final = "compute is not divided: pods on a card share it as the driver does"
_NO_INDEX: Final = "an index is another card on each node; nvidia.com/use-gpuuuid and nouse-gpuuuid name cards"
_NO_TASK_PRIORITY: Final = "no library in the container could make one pod's kernels wait for another's"


def _words(text: str) -> frozenset[str]:
    """The entries of a list with commas; none for an empty value, which is no wish."""
    return frozenset(word.strip() for word in text.split(",") if word.strip())


def _use_type(wishes: Wishes, text: str) -> Wishes:
    return wishes.choosing(models=_words(text))


def _no_use_type(wishes: Wishes, text: str) -> Wishes:
    return wishes.choosing(not_models=_words(text))


def _use_uuid(wishes: Wishes, text: str) -> Wishes:
    return wishes.choosing(ids=_words(text))


def _no_use_uuid(wishes: Wishes, text: str) -> Wishes:
    return wishes.choosing(not_ids=_words(text))


def _mode(wishes: Wishes, text: str) -> Wishes:
    known = {mode.value: mode for mode in CardMode}
    unknown = _words(text) - known.keys()
    if unknown:
        raise WordError(f"not one of {', '.join(known)}")
    return wishes.choosing(modes=frozenset(known[word] for word in _words(text)))


def _node_policy(wishes: Wishes, text: str) -> Wishes:
    if text not in ("", "binpack", "spread"):
        raise WordError("Headroom knows binpack and spread")
    nodes = Order.SPREAD_NODES if text == "spread" else Order.POLICY
    return Wishes(wishes.choice, wishes.order | nodes)


def _card_policy(wishes: Wishes, text: str) -> Wishes:
    if text not in ("", "binpack", "spread", "mutex"):
        raise WordError("Headroom knows binpack, spread and mutex")
    if text == "mutex":
        return wishes.choosing(idle=True)
    cards = Order.SPREAD_CARDS if text == "spread" else Order.POLICY
    return Wishes(wishes.choice, wishes.order | cards)


HAMI: Final = Family(
    "HAMi",
    sizes=(Size(names.RESOURCE_HAMI_MEMORY, Unit.MIB), Size(names.RESOURCE_HAMI_MEMORY_PERCENT, Unit.PERCENT)),
    companions=(
        Companion("nvidia.com/gpucores", _NO_CORES, implies_card=True),
        Companion("nvidia.com/priority", _NO_TASK_PRIORITY),
    ),
    annotations=(
        Annotation("nvidia.com/use-gputype", "A100,V100", "cards whose model holds one of these words", _use_type),
        Annotation("nvidia.com/nouse-gputype", "1080,2080", "no card whose model holds one of these words", _no_use_type),
        Annotation("nvidia.com/use-gpuuuid", "GPU-5f1c", "these cards only", _use_uuid),
        Annotation("nvidia.com/nouse-gpuuuid", "GPU-5f1c", "any but these cards", _no_use_uuid),
        Annotation(
            "nvidia.com/vgpu-mode", "mig",
            "`mig`: MIG instances only; `mps`: cards shared by MPS; `hami-core`: cards that are neither", _mode, refused="vfio",
        ),
        Annotation(
            "hami.io/node-scheduler-policy", "spread", "`spread`: the emptiest node; `binpack`: as Headroom's policy has it",
            _node_policy, refused="random",
        ),
        Annotation(
            "hami.io/gpu-scheduler-policy", "spread",
            "`spread`: the emptiest card; `mutex`: a card that nobody holds; `binpack`: as Headroom's policy has it",
            _card_policy, refused="topology-aware",
        ),
        Annotation("nvidia.com/use-gpuindexes", "0,1", "", ignored=_NO_INDEX),
        Annotation("nvidia.com/nouse-gpuindexes", "0", "", ignored=_NO_INDEX),
        Annotation(
            "nvidia.com/mig-profile-preference", "4g", "",
            ignored="Headroom cuts no card; of the MIG instances there are, one with enough memory is taken",
        ),
        Annotation("nvidia.com/numa-bind", "true", "", ignored="which card is near which CPUs is not known to Headroom"),
        Annotation("hami.io/device-scoring-weights", "memory=1", "", ignored="Headroom's policy has no such weights"),
    ),
    examples=(
        "{nvidia.com/gpumem: 3000}",
        "{nvidia.com/gpu: 2, nvidia.com/gpumem: 10240}",
        "{nvidia.com/gpu: 1, nvidia.com/gpumem: 3000, nvidia.com/gpucores: 30}",
        "{nvidia.com/gpumem-percentage: 25}",
        "{nvidia.com/gpucores: 30}",
    ),
)  # fmt: skip

_VOLCANO_SIZES: Final = (
    Size("volcano.sh/vgpu-memory", Unit.MIB, alone="Volcano's words go with volcano.sh/vgpu-number"),
    Size("volcano.sh/vgpu-memory-percentage", Unit.PERCENT, alone="Volcano's words go with volcano.sh/vgpu-number"),
)

VOLCANO: Final = Family(
    "Volcano",
    sizes=_VOLCANO_SIZES,
    counts=(Count("volcano.sh/vgpu-number", frozenset(size.name for size in _VOLCANO_SIZES)),),
    companions=(Companion("volcano.sh/vgpu-cores", _NO_CORES),),
    annotations=(
        Annotation(
            "volcano.sh/vgpu-mode", "hami-core", "as `nvidia.com/vgpu-mode`", _mode, refused="vfio",
        ),
    ),
    examples=(
        "{volcano.sh/vgpu-number: 1}",
        "{volcano.sh/vgpu-number: 2, volcano.sh/vgpu-memory: 3000}",
        "{volcano.sh/vgpu-number: 1, volcano.sh/vgpu-memory-percentage: 50, volcano.sh/vgpu-cores: 50}",
        "{volcano.sh/vgpu-memory: 3000}",
    ),
)  # fmt: skip
