"""What each inference engine exports: one row per engine. Pure data.

Names are those of the published packages and sources; `tests/fixtures/engines/` keeps what was found in them, with
versions. Where a metric was renamed all names are listed, newest first: the first that a pod exports counts.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Final, TypeAlias

MICROSECONDS: Final = 1e-6

ANY_ENGINE: Final = frozenset(
    {
        "model_name", "engine", "engine_index", "dp_rank", "data_parallel_rank", "rank",
        "lora_name", "lora_adapter", "adapter", "adapter_name", "WorkerId", "ReplicaId",
    }
)  # fmt: skip
"""Labels of one exposition whose values tell parts of one server apart: its models, adapters, data-parallel ranks, workers.

Series of one pod that differ in any other label are views of the same thing: another job, another Prometheus, another rank
that repeats a global count (SGLang's tensor- and pipeline-parallel ranks), a dead process.
"""


class Measure(Enum):
    """How the series of one pod make one number, and which numbers are possible."""

    COUNT = "count"  # requests: parts are added
    SHARE = "share"  # 0 to 1: the mean of the parts
    COUNTER = "counter"  # grows; its rate counts, parts are added


class Before(Enum):
    """What an engine exports before its first request."""

    EVERYTHING = "everything"
    GAUGES = "gauges"  # counters come with the first request
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Metric:
    """One fact and the names it is exported under; values are multiplied by `scale`."""

    names: tuple[str, ...] = ()
    scale: float = 1.0

    def __bool__(self) -> bool:
        return bool(self.names)


Signal: TypeAlias = tuple[str, float]
"""Type and target of a signal of the InferenceAutoscaler."""


@dataclass(frozen=True, slots=True)
class Engine:
    """How one engine is read, and which signals it gets when an object names none.

    An empty Metric means that the engine does not export that fact.
    """

    name: str
    queueing: bool
    """Batches continuously and queues by itself, as LLM engines do: utilisation is near 100 % at any load."""
    signals: tuple[Signal, ...] = ()
    fallback: Signal | None = None
    """Read in place of `work` until a token's cost is known."""
    parts: frozenset[str] = ANY_ENGINE
    before: Before = Before.EVERYTHING
    counts_at_end: bool = False
    """Whether its counters move only when a request ends, so that they stand still for minutes while it works."""
    # Gauges.
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
    ended_prompt_tokens: Metric = Metric()
    ended_output_tokens: Metric = Metric()
    """Tokens of requests that ended: with `finished` their mean length, whatever is still inside."""
    cached_tokens: Metric = Metric()
    """Prompt tokens found in a prefix cache, which `prompt_tokens` counts too."""
    waiting_seconds: Metric = Metric()
    """Time that requests have waited, summed: its rate is the number that waits (Little's law)."""
    prefill_seconds: Metric = Metric()
    """Time from a request's start to its first token, summed: on a prefill server its rate is the number that is computed at once."""
    total_seconds: Metric = Metric()
    """Time that requests have spent in the engine, waiting included, summed: its rate is the number inside."""
    # Histograms (base names) in seconds after scaling.
    time_to_first_token: Metric = Metric()
    inter_token: Metric = Metric()
    per_output_token: Metric = Metric()
    """Mean time between the tokens of a request."""
    request: Metric = Metric()
    prompt_length: Metric = Metric()
    """Prompt tokens of a request, without those found in a prefix cache where the engine tells them apart."""

    def metrics(self, facts: Iterable[str]) -> list[Metric]:
        """Those of the facts that it exports."""
        return [metric for fact in facts if (metric := getattr(self, fact))]


GAUGES: Final = {
    "waiting": Measure.COUNT,
    "running": Measure.COUNT,
    "in_flight": Measure.COUNT,
    "kv_cache": Measure.SHARE,
    "gpu_utilisation": Measure.SHARE,
}
"""The facts that are gauges, and what their numbers are."""
COUNTERS: Final = (
    "prompt_tokens", "output_tokens", "iterations", "token_seconds", "token_count", "finished",
    "ended_prompt_tokens", "ended_output_tokens", "cached_tokens",
    "waiting_seconds", "total_seconds",
)  # fmt: skip
OF_PREFILL: Final = ("prefill_seconds",)
"""Counters that are read of replicas which do nothing but prefill."""
HISTOGRAMS: Final = ("time_to_first_token", "inter_token", "per_output_token", "request", "prompt_length")


VLLM: Final = Engine(
    "vllm",
    queueing=True,
    signals=(("work", 0.9), ("kvCache", 0.9)),
    fallback=("running", 16.0),
    waiting=Metric(("vllm:num_requests_waiting",)),
    running=Metric(("vllm:num_requests_running",)),
    kv_cache=Metric(("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")),
    prompt_tokens=Metric(("vllm:prompt_tokens_total",)),
    output_tokens=Metric(("vllm:generation_tokens_total",)),
    iterations=Metric(("vllm:iteration_tokens_total_count",)),
    token_seconds=Metric(("vllm:inter_token_latency_seconds_sum", "vllm:time_per_output_token_seconds_sum")),
    token_count=Metric(("vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count")),
    finished=Metric(("vllm:e2e_request_latency_seconds_count",)),
    ended_prompt_tokens=Metric(("vllm:request_prompt_tokens_sum",)),
    ended_output_tokens=Metric(("vllm:request_generation_tokens_sum",)),
    cached_tokens=Metric(("vllm:prompt_tokens_cached_total",)),
    prefill_seconds=Metric(("vllm:request_prefill_time_seconds_sum",)),
    time_to_first_token=Metric(("vllm:time_to_first_token_seconds",)),
    inter_token=Metric(("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")),
    per_output_token=Metric(("vllm:request_time_per_output_token_seconds",)),
    request=Metric(("vllm:e2e_request_latency_seconds",)),
    prompt_length=Metric(("vllm:request_prefill_kv_computed_tokens", "vllm:request_prompt_tokens")),
)

SGLANG: Final = Engine(
    "sglang",
    queueing=True,
    signals=(("work", 0.9), ("kvCache", 0.9)),
    fallback=("running", 16.0),
    parts=ANY_ENGINE | {"is_streaming", "cache_source"},
    before=Before.GAUGES,
    waiting=Metric(("sglang:num_queue_reqs",)),
    running=Metric(("sglang:num_running_reqs",)),
    kv_cache=Metric(("sglang:token_usage",)),
    prompt_tokens=Metric(("sglang:prompt_tokens_total",)),
    output_tokens=Metric(("sglang:generation_tokens_total",)),
    token_seconds=Metric(("sglang:inter_token_latency_seconds_sum",)),
    token_count=Metric(("sglang:inter_token_latency_seconds_count",)),
    finished=Metric(("sglang:e2e_request_latency_seconds_count",)),
    ended_prompt_tokens=Metric(("sglang:prompt_tokens_histogram_sum",)),
    ended_output_tokens=Metric(("sglang:generation_tokens_histogram_sum",)),
    cached_tokens=Metric(("sglang:cached_tokens_total",)),
    time_to_first_token=Metric(("sglang:time_to_first_token_seconds",)),
    inter_token=Metric(("sglang:inter_token_latency_seconds",)),
    per_output_token=Metric(("sglang:request_time_per_output_token_seconds",)),
    request=Metric(("sglang:e2e_request_latency_seconds",)),
    prompt_length=Metric(("sglang:uncached_prompt_tokens_histogram", "sglang:prompt_tokens_histogram")),
)

TGI: Final = Engine(
    "tgi",
    queueing=True,
    signals=(("work", 0.9),),
    fallback=("running", 16.0),
    before=Before.NOTHING,
    counts_at_end=True,
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
    signals=(("gpuUtilization", 0.7), ("queue", 4.0)),
    parts=ANY_ENGINE | {"model", "version", "gpu_uuid"},
    waiting=Metric(("nv_inference_pending_request_count",)),
    gpu_utilisation=Metric(("nv_gpu_utilization",)),
    waiting_seconds=Metric(("nv_inference_queue_duration_us",), MICROSECONDS),
    total_seconds=Metric(("nv_inference_request_duration_us",), MICROSECONDS),
)

TORCHSERVE: Final = Engine(
    "torchserve",
    queueing=False,
    signals=(("gpuUtilization", 0.7), ("queue", 4.0)),
    parts=ANY_ENGINE | {"model_version", "DeviceId"},
    before=Before.GAUGES,
    gpu_utilisation=Metric(("GPUUtilization",), 0.01),
    waiting_seconds=Metric(("ts_queue_latency_microseconds",), MICROSECONDS),
    total_seconds=Metric(("ts_inference_latency_microseconds",), MICROSECONDS),
)

TENSORFLOW_SERVING: Final = Engine(
    "tensorflow-serving",
    queueing=False,
    signals=(("gpuUtilization", 0.7), ("running", 8.0)),
    parts=ANY_ENGINE | {"API", "entrypoint"},
    before=Before.GAUGES,
    waiting_seconds=Metric((":tensorflow:serving:batching_session:queuing_latency_sum",), MICROSECONDS),
    total_seconds=Metric((":tensorflow:serving:request_latency_sum",), MICROSECONDS),
    request=Metric((":tensorflow:serving:request_latency",), MICROSECONDS),
)

FASTCHAT: Final = Engine(
    "fastchat",
    queueing=True,
    # A worker answers with `limit - free slots + waiters`: running and waiting together.
    signals=(("running", 4.0),),
    in_flight=Metric(("headroom_fastchat_queue_length",)),
)

LLAMA_CPP: Final = Engine(
    "llama.cpp",
    queueing=True,
    # Four slots unless started with --parallel: what comes beyond them is deferred. Tokens are counted when a request ends,
    # requests and their latency not at all.
    signals=(("running", 4.0),),
    counts_at_end=True,
    waiting=Metric(("llamacpp:requests_deferred",)),
    running=Metric(("llamacpp:requests_processing",)),
    prompt_tokens=Metric(("llamacpp:prompt_tokens_total",)),
    output_tokens=Metric(("llamacpp:tokens_predicted_total",)),
    iterations=Metric(("llamacpp:n_decode_total",)),
    token_seconds=Metric(("llamacpp:tokens_predicted_seconds_total",)),
    token_count=Metric(("llamacpp:tokens_predicted_total",)),
)


def _named_as_vllm(name: str, prefix: str) -> Engine:
    """What engines have in common whose counters and histograms are called as vLLM's were, behind `prefix`."""
    return Engine(
        name,
        queueing=True,
        signals=(("work", 0.9), ("kvCache", 0.9)),
        fallback=("running", 16.0),
        kv_cache=Metric((f"{prefix}gpu_cache_usage_perc",)),
        prompt_tokens=Metric((f"{prefix}prompt_tokens_total",)),
        output_tokens=Metric((f"{prefix}generation_tokens_total",)),
        token_seconds=Metric((f"{prefix}time_per_output_token_seconds_sum",)),
        token_count=Metric((f"{prefix}time_per_output_token_seconds_count",)),
        finished=Metric((f"{prefix}e2e_request_latency_seconds_count",)),
        ended_prompt_tokens=Metric((f"{prefix}request_prompt_tokens_sum",)),
        ended_output_tokens=Metric((f"{prefix}request_generation_tokens_sum",)),
        time_to_first_token=Metric((f"{prefix}time_to_first_token_seconds",)),
        inter_token=Metric((f"{prefix}time_per_output_token_seconds",)),
        request=Metric((f"{prefix}e2e_request_latency_seconds",)),
        prompt_length=Metric((f"{prefix}request_prompt_tokens",)),
    )


# Names without a prefix, as NIM for LLMs 1.x exports them at /v1/metrics. Later ones export those of the engine inside (vLLM's).
NIM: Final = replace(
    _named_as_vllm("nim", ""),
    before=Before.GAUGES,
    waiting=Metric(("num_requests_waiting",)),
    running=Metric(("num_requests_running",)),
)

LMDEPLOY: Final = replace(
    _named_as_vllm("lmdeploy", "lmdeploy:"),
    # Its API server holds `max_batch_size` handles: what comes beyond them waits for one there, and the engine's own queue stays
    # short. What has a handle is inside the engine, running or waiting for memory, which the KV cache tells.
    waiting=Metric(("lmdeploy:num_api_requests_waiting", "lmdeploy:num_requests_waiting")),
    running=Metric(("lmdeploy:num_api_requests_routed", "lmdeploy:num_requests_running")),
    cached_tokens=Metric(("lmdeploy:cached_tokens_total",)),
)

TRTLLM: Final = Engine(
    "trtllm",
    queueing=True,
    signals=(("work", 0.9),),
    fallback=("running", 16.0),
    # Gauges are set from the statistics of iterations, counters when a request ends.
    before=Before.NOTHING,
    counts_at_end=True,
    waiting=Metric(("trtllm_num_requests_waiting",)),
    running=Metric(("trtllm_num_requests_running",)),
    kv_cache=Metric(("trtllm_kv_cache_utilization",)),
    prompt_tokens=Metric(("trtllm_prompt_tokens_total",)),
    output_tokens=Metric(("trtllm_generation_tokens_total",)),
    # One value for a request, the mean of its tokens, as TGI has it.
    token_seconds=Metric(("trtllm_time_per_output_token_seconds_sum",)),
    token_count=Metric(("trtllm_time_per_output_token_seconds_count",)),
    finished=Metric(("trtllm_e2e_request_latency_seconds_count",)),
    cached_tokens=Metric(("trtllm_prompt_cached_tokens_total",)),
    time_to_first_token=Metric(("trtllm_time_to_first_token_seconds",)),
    inter_token=Metric(("trtllm_time_per_output_token_seconds",)),
    per_output_token=Metric(("trtllm_time_per_output_token_seconds",)),
    request=Metric(("trtllm_e2e_request_latency_seconds",)),
)

CUSTOM: Final = Engine("custom", queueing=False)

ENGINES: Final = {
    engine.name: engine
    for engine in (
        VLLM, SGLANG, TGI, TRITON, TORCHSERVE, TENSORFLOW_SERVING, FASTCHAT, LLAMA_CPP, NIM, LMDEPLOY, TRTLLM, CUSTOM,
    )
}  # fmt: skip

DEVICE_UTILISATION: Final = (
    Metric(("headroom_card_utilization_ratio",)),
    Metric(("DCGM_FI_PROF_GR_ENGINE_ACTIVE",)),
    Metric(("DCGM_FI_DEV_GPU_UTIL",), 0.01),
)
"""Per device, best first. Values above 1 after scaling are sentinels for `not supported`."""

_METRICS: Final = tuple(field.name for field in fields(Engine) if field.name in {*GAUGES, *COUNTERS, *HISTOGRAMS})


_NAME: Final = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
"""Names of a map stand in queries that all objects share: what is none would break them, or ask for something else."""


class NameMapError(ValueError):
    """An entry of a name map that says nothing; the text is the reason."""


def renamed(engine: Engine, names: Sequence[tuple[str, str]]) -> Engine:
    """The engine as a map of names says that it is exported here; published names stay behind those of the map.

    Pairs are (published, here); one `*` in both stands for the same text: `vllm:*` -> `kserve_vllm:*`. Raises NameMapError.
    """
    checked = [_pair(*pair) for pair in names]
    changes: dict[str, Any] = {}
    for fact in _METRICS:
        metric: Metric = getattr(engine, fact)
        here = [new for name in metric.names for pair in checked if (new := _renamed(name, *pair))]
        if here:
            changes[fact] = replace(metric, names=tuple(dict.fromkeys((*here, *metric.names))))
    return replace(engine, **changes) if changes else engine


def _pair(published: str, here: str) -> tuple[str, str]:
    if not published or not here or published.count("*") > 1 or published.count("*") != here.count("*"):
        raise NameMapError("needs a name or pattern on both sides, with at most one `*`, and as many in each")
    if not _NAME.fullmatch(here.replace("*", "_")):
        raise NameMapError(
            f"{here!r} is no name of a metric: letters, digits, `_` and `:` make one, and no digit begins it"
        )
    return published, here


def _renamed(name: str, published: str, here: str) -> str:
    head, star, tail = published.partition("*")
    if not star:
        return here if name == published else ""
    if len(name) < len(head) + len(tail) or not (name.startswith(head) and name.endswith(tail)):
        return ""
    new = here.replace("*", name[len(head) : len(name) - len(tail)])
    if not _NAME.fullmatch(new):
        raise NameMapError(f"makes {new!r} of {name}, which is no name of a metric")
    return new
