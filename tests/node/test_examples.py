"""The example that asks for two cards, on a real node: its worker runs and sees both."""

import copy

import yaml

from headroom import names
from simulations.node.images.basic import BUSYBOX
from tests.node.installed import Headroom
from tests.paths import DEPLOY


def test_fastchats_worker_runs_and_sees_two_cards(headroom: Headroom) -> None:
    """The worker of deploy/examples/fastchat.yaml, with busybox for FastChat and as much CPU and memory as a small machine has."""
    headroom.share(1)
    bodies = yaml.safe_load_all((DEPLOY / "examples" / "fastchat.yaml").read_text())
    (worker,) = (copy.deepcopy(body) for body in bodies if body["metadata"]["name"] == "fastchat-mixtral")
    worker["metadata"]["labels"]["test"] = "node"
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    container |= {"image": BUSYBOX, "command": ["sh", "-c", "env; df /dev/shm; sleep 36000"]}
    del container["readinessProbe"]
    container["resources"]["requests"] = {"cpu": "10m", "memory": "16Mi"}
    headroom.node.apply([worker], "default")
    headroom.node.wait_for(lambda: len(headroom.node.pods("default")) == 1, "the worker's pod")
    name = headroom.node.pods("default")[0]["metadata"]["name"]
    headroom.started(name)
    seen = headroom.environment(name)
    assert set(seen["NVIDIA_VISIBLE_DEVICES"].split(",")) == set(headroom.node.cards.uuids)
    assert set(headroom.given()[name]) == set(headroom.assigned(name))
    pod = headroom.pod(name)
    assert pod["metadata"]["annotations"][names.ANNOTATION_ASSIGNED_VRAM_MIB] == str(60 * 1024)
    assert [card["held_mib"] for card in headroom.ledger()] == [60 * 1024] * 2
    # The part of each card that is its own, as the example gives it to vLLM.
    assert 0.7 < float(seen["HEADROOM_VRAM_SHARE"]) < 0.8
