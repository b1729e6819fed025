"""Whose word a series' labels are."""

import pytest

from headroom.prometheus.series import DEVICE_JOBS, DeviceJobs, newest, target_labels

DCGM = {"UUID": "GPU-a", "namespace": "metrics", "pod": "dcgm-x"}
SHARER = {"exported_namespace": "chat", "exported_pod": "llama-0"}


@pytest.mark.parametrize(
    ("job", "believed"),
    [
        ("dcgm-exporter", True),
        ("nvidia-dcgm-exporter", True),
        ("gpu-operator/nvidia-dcgm-exporter", True),
        ("monitoring/my-dcgm-exporter", True),
        ("headroom-agent", True),
        ("headroom-system/agent", True),
        ("kubernetes-pods", False),
        ("chat/dcgm-exporter", False),
        ("dcgm-exporter-of-mine", False),
        ("my-headroom-agent", False),
        ("", True),
    ],
)
def test_usual_jobs_of_device_exporters_are_believed_and_nobody_elses(job: str, believed: bool) -> None:
    labels = DCGM | SHARER | ({"job": job} if job else {})
    jobs = DeviceJobs()
    assert (jobs.believed(job), jobs.doubted(labels)) == (believed, not believed)
    own = jobs.own_labels(labels)
    assert (own["namespace"], own["pod"]) == (("chat", "llama-0") if believed else ("metrics", "dcgm-x"))
    assert not any(name.startswith("exported_") for name in own)


def test_whatever_scrapes_a_pod_of_headroom_or_of_the_gpu_operator_is_believed() -> None:
    for namespace, believed in (("headroom-system", True), ("gpu-operator", True), ("evil", False)):
        labels = DCGM | SHARER | {"job": "kubernetes-pods", "namespace": namespace}
        assert DeviceJobs().doubted(labels) is not believed


def test_the_newest_value_is_the_last_number() -> None:
    assert newest([(1.0, 5.0), (2.0, 6.0), (3.0, float("nan")), (4.0, float("inf"))]) == (2.0, 6.0)
    assert newest([(1.0, float("nan"))]) is None
    assert newest([]) is None


def test_labels_that_clash_with_nothing_are_the_exporters_whatever_the_job() -> None:
    labels = {"job": "anything", "UUID": "GPU-a", "pod": "llama-0"}
    jobs = DeviceJobs()
    assert jobs.own_labels(labels) is labels
    assert not jobs.doubted(labels)


def test_only_the_named_jobs_are_believed_where_they_are_named() -> None:
    jobs = DeviceJobs(("ours", "team-?/gpu*"))
    assert [jobs.believed(job) for job in ("ours", "team-a/gpus", "dcgm-exporter", "OURS")] == [
        True,
        True,
        False,
        False,
    ]
    assert not DeviceJobs(()).believed("dcgm-exporter")
    tied = DeviceJobs(("gpu:exporter-*",))
    assert (tied.believed("exporter-a", "gpu"), tied.believed("exporter-a", "evil")) == (True, False)
    assert all("*" in job or DeviceJobs().believed(job) for job in DEVICE_JOBS)


def test_a_series_that_is_no_devices_speaks_of_the_pod_that_was_scraped() -> None:
    """A neighbour that exports a queue under another pod's name is not believed, whatever its job."""
    forged = {"__name__": "vllm:num_requests_waiting", "namespace": "evil", "pod": "evil-0"}
    assert target_labels(forged | {"exported_pod": "llama-0", "exported_namespace": "chat"}) == forged
    assert target_labels(forged) is forged
