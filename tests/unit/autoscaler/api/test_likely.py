"""What is allowed in an object and likely a mistake."""

from typing import Any

import pytest

from autoscaler.api.resource import DECODER, read
from headroom.wire import encode


def mistakes(**spec: Any) -> tuple[str, ...]:
    whole = {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}, "minReplicas": 1, "maxReplicas": 8, **spec}
    return read(DECODER.decode(encode({"metadata": {"name": "llm", "namespace": "ns"}, "spec": whole}))).mistakes


def signal(kind: str, target: Any) -> dict[str, Any]:
    return {"signals": [{"name": "s", "type": kind, "target": target}]}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (signal("timeToFirstToken", 500), "signal s: target 500 is in seconds; half a second is 500m"),
        (signal("interTokenLatency", 50), "target 50 is in seconds"),
        (signal("requestLatency", 5000), "target 5000 is in seconds"),
        (signal("timeToFirstToken", "1m"), "target 0.001 s is shorter than any engine answers"),
        (signal("kvCache", "0.01"), "target 0.01 is a share of 1"),
        (signal("gpuUtilization", "0.8"), "engines that batch keep their cards busy at any load"),
        (signal("running", 100_000), "target 100000 requests per replica is more than one can hold"),
        ({"minReplicas": 8}, "minReplicas and maxReplicas are both 8"),
        ({"minReplicas": 0, "scaleToZero": {"activationQuery": "x", "idleAfter": "5s"}}, "idleAfter 5 s is shorter"),
        ({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}, "stabilizationWindowSeconds 0"),
        ({"burstFactor": 1}, "burstFactor 1 keeps nothing"),
    ],
)
def test_it_is_named_with_field_and_value(spec: dict[str, Any], words: str) -> None:
    assert words in "; ".join(mistakes(**spec))


@pytest.mark.parametrize(
    "spec",
    [
        {}, signal("timeToFirstToken", "500m"), signal("interTokenLatency", "0.05"), signal("kvCache", "0.9"),
        signal("queue", 4), signal("gpuUtilization", "0.7") | {"engine": "triton"}, {"burstFactor": 3},
    ],
)  # fmt: skip
def test_what_is_sound_is_not_complained_about(spec: dict[str, Any]) -> None:
    assert mistakes(**spec) == ()
