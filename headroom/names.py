"""Every resource, label and annotation name that Headroom reads or writes, once."""

from typing import Final

DOMAIN: Final = "headroom.dev"

# Resources in which pods ask.
RESOURCE_VRAM: Final = "headroom.dev/vram"  # bytes per share
RESOURCE_GPU_MILLI: Final = "headroom.dev/gpu-milli"  # thousandths of a card per share, whatever its size
RESOURCE_GPU: Final = "headroom.dev/gpu"  # cards that Headroom picks, whole ones where no size is stated
RESOURCE_NVIDIA_GPU: Final = "nvidia.com/gpu"  # whole cards, or time slices where the node shares its cards
RESOURCE_NVIDIA_GPU_SHARED: Final = "nvidia.com/gpu.shared"  # time slices with the device plugin's renameByDefault
RESOURCE_HAMI_MEMORY: Final = "nvidia.com/gpumem"  # MiB per card (HAMi)
RESOURCE_HAMI_MEMORY_PERCENT: Final = "nvidia.com/gpumem-percentage"  # percent of a card (HAMi)
RESOURCE_GPUSHARE_MEMORY: Final = "aliyun.com/gpu-mem"  # GiB in total (gpushare)
RESOURCE_AMD_GPU: Final = "amd.com/gpu"
RESOURCE_GOOGLE_TPU: Final = "google.com/tpu"
RESOURCE_INTEL_GAUDI: Final = "habana.ai/gaudi"

# Node labels of NVIDIA GPU feature discovery.
LABEL_GPU_PRODUCT: Final = "nvidia.com/gpu.product"
LABEL_GPU_MEMORY: Final = "nvidia.com/gpu.memory"
LABEL_GPU_COUNT: Final = "nvidia.com/gpu.count"
LABEL_GPU_REPLICAS: Final = "nvidia.com/gpu.replicas"
LABEL_GPU_SHARING: Final = "nvidia.com/gpu.sharing-strategy"
LABEL_MIG_STRATEGY: Final = "nvidia.com/mig.strategy"
LABEL_MPS_CAPABLE: Final = "nvidia.com/mps.capable"  # "true" where the device plugin shares by MPS

# Node labels of Google Kubernetes Engine, whose own device plugin comes without feature discovery.
LABEL_GKE_ACCELERATOR: Final = "cloud.google.com/gke-accelerator"
LABEL_GKE_SHARING: Final = "cloud.google.com/gke-gpu-sharing-strategy"
LABEL_GKE_CLIENTS: Final = "cloud.google.com/gke-max-shared-clients-per-gpu"
LABEL_GKE_PARTITION: Final = "cloud.google.com/gke-gpu-partition-size"  # a MIG profile such as 1g.5gb

# Written on nodes by the agent, and by whoever describes cards by hand.
LABEL_CARD_MODEL: Final = "headroom.dev/card-model"
LABEL_CARD_VRAM: Final = "headroom.dev/card-vram"  # a quantity, memory of each card
LABEL_CARD_RESERVE: Final = "headroom.dev/card-reserve"  # a quantity, what the driver keeps of each card
ANNOTATION_NODE_CARDS: Final = "headroom.dev/cards"
ANNOTATION_NODE_LINKS: Final = "headroom.dev/links"  # how the cards are linked with one another
ANNOTATION_AGENT_TELLS: Final = "headroom.dev/agent-tells"  # what the agent on this node tells of pods: kubelet-cards
ANNOTATION_FORGET_CARDS: Final = "headroom.dev/forget-cards"  # ids of cards that are gone for good, with commas
LABEL_ALLOCATION: Final = (
    "headroom.dev/allocation"  # which card the device plugin prefers: distributed | packed | spread
)
LABEL_ONE_DEVICE_EACH: Final = (
    "headroom.dev/fail-requests-greater-than-one"  # the plugin's setting of this name: true | false
)

# Written on nodes by HAMi's device plugin, which makes several devices of each card.
ANNOTATION_HAMI_REGISTER: Final = "hami.io/node-nvidia-register"

# Written on pods by the scheduler, in the Binding itself.
ANNOTATION_ASSIGNED_CARDS: Final = "headroom.dev/assigned-cards"
ANNOTATION_ASSIGNED_VRAM_MIB: Final = "headroom.dev/assigned-vram-mib"
ANNOTATION_ASSIGNED_VRAM_SHARE: Final = "headroom.dev/assigned-vram-share"
ANNOTATION_ASSIGNED_MODE: Final = "headroom.dev/assigned-mode"
ANNOTATION_KUBELET_CARDS: Final = (
    "headroom.dev/kubelet-cards"  # the cards that kubelet handed out, as the agent found them
)

# On pods that were not bound when an extender began to decide: its term. What was decided before does not match the pod any more.
ANNOTATION_TERM: Final = "headroom.dev/term"

# Read from namespaces: the quota of their pods, by what the ledger says that they hold.
ANNOTATION_MAX_VRAM: Final = "headroom.dev/max-vram"  # a quantity, memory of cards in all
ANNOTATION_MAX_CARDS: Final = "headroom.dev/max-cards"  # cards or slices in all

# Read from pods.
LABEL_PROJECT: Final = "headroom.dev/project"

# Node autoscaling: pods that are never bound and ask a node autoscaler for nodes, and the pods that mark nodes as not free for them.
LABEL_PLACEHOLDER: Final = "headroom.dev/placeholder"
LABEL_PINNED: Final = "headroom.dev/pinned"
PRIORITY_PLACEHOLDER: Final = "headroom-placeholder"  # a PriorityClass
LABEL_HOSTNAME: Final = "kubernetes.io/hostname"

# Read from pods, as annotations or labels: pods of one group are placed together or not at all.
GROUP: Final = "headroom.dev/group"  # its name in the namespace; empty: this pod is in no group, whatever else it says
GROUP_SIZE: Final = "headroom.dev/group-size"  # how many pods it takes
GROUP_TOPOLOGY: Final = (
    "headroom.dev/group-topology"  # within what all of them must be: a level such as rack, or a node label's key
)

# The wake-up call to kube-scheduler: a changed Node annotation re-queues the pods that were refused.
ANNOTATION_WAKE: Final = "headroom.dev/vram-freed"

# On a Lease: who should lead in place of its holder, because its callers ask it.
ANNOTATION_CHALLENGER: Final = "headroom.dev/challenger"

SCHEDULER_NAME: Final = "headroom"
API_VERSION: Final = "headroom.dev/v1alpha1"
KIND_AUTOSCALER: Final = "InferenceAutoscaler"
PLURAL_AUTOSCALER: Final = "inferenceautoscalers"
ANNOTATION_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
