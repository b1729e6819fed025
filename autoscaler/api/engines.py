"""Which metrics each inference engine exports, and which signals it gets when an object names none. Pure data.

Names are those of the published packages and sources; `tests/fixtures/engines/` keeps what was found in them, with
versions. Where a metric was renamed all names are listed, newest first: the first that a pod exports counts.
"""

from dataclasses import dataclass
from typing import Final

from autoscaler.law.inputs import SignalKind
from autoscaler.law.spec import SignalSpec

MICROSECONDS: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Metric:
    """One fact and the names it is exported under; values are multiplied by `scale`."""

    names: tuple[str, ...] = ()
    scale: float = 1.0

    def __bool__(self) -> bool:
        return bool(self.names)


@dataclass(frozen=True, slots=True)
class Engine:
    """How one engine is read. An empty Metric means that the engine does not export that fact."""

    name: str
    queueing: bool
    """Batches continuously and queues by itself, as LLM engines do: utilisation is near 100 % at any load."""
    defaults: tuple[SignalSpec, ...]
    fallback: SignalSpec | None = None
    # Gauges. Counts are summed over the series of a pod, shares averaged.
    waiting: Metric = Metric()
    running: Metric = Metric()
    in_flight: Metric = Metric()
    """Running and waiting in one number."""
    kv_cache: Metric = Metric()
    gpu_utilisation: Metric = Metric()
    # Counters.
    prompt_tokens: Metric = Metric()
    output_tokens: Metric = Metric()
    iterations: Metric = Metric()
    token_seconds: Metric = Metric()
    """Sum of a histogram of seconds between output tokens."""
    token_count: Metric = Metric()
    """Count of the same histogram."""
    finished: Metric = Metric()
    """Requests that ended, for their mean length and for arrivals."""
    waiting_seconds: Metric = Metric()
    """Time that requests have waited, summed: its rate is the number that waits (Little's law)."""
    served_seconds: Metric = Metric()
    """Time that requests have spent in the engine, waiting excluded, summed: its rate is the number served at once."""
    total_seconds: Metric = Metric()
    """The same with waiting included."""
    # Histograms (base names) in seconds after scaling.
    time_to_first_token: Metric = Metric()
    inter_token: Metric = Metric()
    request: Metric = Metric()


_WORK = SignalSpec(SignalKind.WORK, 0.9, "work")
_KV = SignalSpec(SignalKind.KV_CACHE, 0.9, "kvCache")
_IN_FLIGHT = SignalSpec(SignalKind.RUNNING, 16.0, "running")

VLLM: Final = Engine(
    "vllm",
    queueing=True,
    defaults=(_WORK, _KV),
    fallback=_IN_FLIGHT,
    waiting=Metric(("vllm:num_requests_waiting",)),
    running=Metric(("vllm:num_requests_running",)),
    kv_cache=Metric(("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")),
    prompt_tokens=Metric(("vllm:prompt_tokens_total",)),
    output_tokens=Metric(("vllm:generation_tokens_total",)),
    iterations=Metric(("vllm:iteration_tokens_total_count",)),
    token_seconds=Metric(("vllm:inter_token_latency_seconds_sum", "vllm:time_per_output_token_seconds_sum")),
    token_count=Metric(("vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count")),
    finished=Metric(("vllm:e2e_request_latency_seconds_count",)),
    time_to_first_token=Metric(("vllm:time_to_first_token_seconds",)),
    inter_token=Metric(("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")),
    request=Metric(("vllm:e2e_request_latency_seconds",)),
)

SGLANG: Final = Engine(
    "sglang",
    queueing=True,
    defaults=(_WORK, _KV),
    fallback=_IN_FLIGHT,
    waiting=Metric(("sglang:num_queue_reqs",)),
    running=Metric(("sglang:num_running_reqs",)),
    kv_cache=Metric(("sglang:token_usage",)),
    prompt_tokens=Metric(("sglang:prompt_tokens_total",)),
    output_tokens=Metric(("sglang:generation_tokens_total",)),
    token_seconds=Metric(("sglang:inter_token_latency_seconds_sum",)),
    token_count=Metric(("sglang:inter_token_latency_seconds_count",)),
    finished=Metric(("sglang:e2e_request_latency_seconds_count",)),
    time_to_first_token=Metric(("sglang:time_to_first_token_seconds",)),
    inter_token=Metric(("sglang:inter_token_latency_seconds",)),
    request=Metric(("sglang:e2e_request_latency_seconds",)),
)

TGI: Final = Engine(
    "tgi",
    queueing=True,
    defaults=(_WORK,),
    fallback=_IN_FLIGHT,
    waiting=Metric(("tgi_queue_size",)),
    running=Metric(("tgi_batch_current_size",)),
    prompt_tokens=Metric(("tgi_request_input_length_sum",)),
    output_tokens=Metric(("tgi_request_generated_tokens_sum",)),
    token_seconds=Metric(("tgi_request_mean_time_per_token_duration_sum",)),
    token_count=Metric(("tgi_request_mean_time_per_token_duration_count",)),
    finished=Metric(("tgi_request_duration_count",)),
    inter_token=Metric(("tgi_request_mean_time_per_token_duration",)),
    request=Metric(("tgi_request_duration",)),
)

TRITON: Final = Engine(
    "triton",
    queueing=False,
    defaults=(
        SignalSpec(SignalKind.GPU_UTILIZATION, 0.7, "gpuUtilization"),
        SignalSpec(SignalKind.QUEUE, 4.0, "queue"),
    ),
    waiting=Metric(("nv_inference_pending_request_count",)),
    gpu_utilisation=Metric(("nv_gpu_utilization",)),
    waiting_seconds=Metric(("nv_inference_queue_duration_us",), MICROSECONDS),
    total_seconds=Metric(("nv_inference_request_duration_us",), MICROSECONDS),
)

TORCHSERVE: Final = Engine(
    "torchserve",
    queueing=False,
    defaults=(
        SignalSpec(SignalKind.GPU_UTILIZATION, 0.7, "gpuUtilization"),
        SignalSpec(SignalKind.QUEUE, 4.0, "queue"),
    ),
    gpu_utilisation=Metric(("GPUUtilization",), 0.01),
    waiting_seconds=Metric(("ts_queue_latency_microseconds",), MICROSECONDS),
    served_seconds=Metric(("ts_inference_latency_microseconds",), MICROSECONDS),
)

TENSORFLOW_SERVING: Final = Engine(
    "tensorflow-serving",
    queueing=False,
    defaults=(
        SignalSpec(SignalKind.GPU_UTILIZATION, 0.7, "gpuUtilization"),
        SignalSpec(SignalKind.RUNNING, 8.0, "running"),
    ),
    waiting_seconds=Metric((":tensorflow:serving:batching_session:queuing_latency_sum",), MICROSECONDS),
    total_seconds=Metric((":tensorflow:serving:request_latency_sum",), MICROSECONDS),
    request=Metric((":tensorflow:serving:request_latency",), MICROSECONDS),
)

FASTCHAT: Final = Engine(
    "fastchat",
    queueing=True,
    # A worker answers with `limit - free slots + waiters`: running and waiting together.
    defaults=(SignalSpec(SignalKind.RUNNING, 4.0, "running"),),
    in_flight=Metric(("headroom_fastchat_queue_length",)),
)

CUSTOM: Final = Engine("custom", queueing=False, defaults=())

ENGINES: Final = {
    engine.name: engine for engine in (VLLM, SGLANG, TGI, TRITON, TORCHSERVE, TENSORFLOW_SERVING, FASTCHAT, CUSTOM)
}

DEVICE_UTILISATION: Final = (
    Metric(("headroom_card_utilization_ratio",)),
    Metric(("DCGM_FI_PROF_GR_ENGINE_ACTIVE",)),
    Metric(("DCGM_FI_DEV_GPU_UTIL",), 0.01),
)
"""Per device, best first. Values above 1 after scaling are sentinels for `not supported`."""
