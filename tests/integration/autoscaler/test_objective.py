"""An objective on a real control plane: emulated engines, a real Prometheus, the autoscaler as a process."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from simulations.kwok.cluster import Cluster
from simulations.kwok.emulator import Load, ServingEmulator
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.process import Component
from tests.fakes.autoscaled import Autoscaled

SHARE = 0.9
OBJECTIVE = {"timeToFirstToken": "1s", "share": str(SHARE)}
PRICES = {"secondsPerPromptToken": "0.00015", "secondsPerOutputToken": "0.0009"}
"""Of the emulated server: 500 tokens in and 100 out take 0.165 GPU seconds."""
STEP_SECONDS = 7.0
"""Between two changes of the load: longer than a replica takes to start and the means take to follow."""


class Server(Autoscaled):
    """A Deployment of emulated servers with an objective."""

    emulator: ServingEmulator

    def deploy(self) -> None:
        labels = {"app": self.name}
        annotations = {"headroom.dev/sim-cold-start-seconds": "2", "headroom.dev/sim-drain-seconds": "5"}
        limits = {"headroom.dev/vram": "20Gi"}
        containers = [{"name": "server", "image": "server", "resources": {"limits": limits}}]
        spec = {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": {"schedulerName": "headroom", "containers": containers},
            },
        }
        meta = {"name": self.name, "namespace": self.namespace}
        self.cluster.apply([{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}])

    @contextmanager
    def keeps_its_objective(self, while_: str) -> Iterator[None]:
        """Of the requests that were answered in the block, enough met the objective."""
        before = self.emulator.first_tokens(self.key, 1.0)
        yield
        in_time, answered = (
            now - then for now, then in zip(self.emulator.first_tokens(self.key, 1.0), before, strict=True)
        )
        print(f"{while_}: {in_time / answered:.1%} of {answered:.0f} requests in time, {self.replicas} replicas")
        assert in_time / answered >= SHARE, f"{while_}: {in_time:.0f} of {answered:.0f} in time; status {self.status}"


@pytest.fixture
def server(
    cluster: Cluster,
    emulator: ServingEmulator,
    start_autoscaler: Callable[..., Component],
    namespace: str,
    gpu_nodes: Callable[..., None],
) -> Server:
    gpu_nodes(uniform_nodes(2, cards=4, vram_mib=40960, resource=""))
    start_autoscaler()
    server = Server(cluster, namespace)
    server.emulator = emulator
    return server


def test_an_objective_is_kept_through_a_ramp_a_shift_of_the_mix_and_a_rollout(server: Server) -> None:
    emulator, key = server.emulator, server.key
    emulator.serve(key, Load(4.0))
    server.deploy()
    server.autoscale(signals=None, objective=OBJECTIVE, work=PRICES)
    server.wait_ready(1)
    with server.keeps_its_objective("a ramp from 4 to 16 requests a second"):
        for rate in range(6, 17, 2):
            emulator.change(key, requests_per_second=float(rate))
            time.sleep(STEP_SECONDS)
    ramped = server.replicas
    assert 3 <= ramped <= 5  # 16 x 0.165 = 2.64 GPU seconds a second
    with server.keeps_its_objective("prompts that grow from 500 to 900 tokens"):
        for tokens in range(600, 901, 100):
            emulator.change(key, prompt_tokens=float(tokens))
            time.sleep(STEP_SECONDS)
    shifted = server.replicas
    assert ramped < shifted <= 6  # 16 x 0.225 = 3.6
    with server.keeps_its_objective("a rollout"):
        server.cluster.kubectl("rollout", "restart", "deployment", server.name, "-n", server.namespace)
        server.cluster.kubectl(
            "rollout", "status", "deployment", server.name, "-n", server.namespace, "--timeout", "120s"
        )
    server.settle()
    with server.keeps_its_objective("the time after it"):
        settled = server.seen(10)
    assert len(settled) == 1, "it moves without a change of load"
    assert max(settled) <= 6
    met = next(c for c in server.status["conditions"] if c["type"] == "ObjectiveMet")
    assert met["status"] == "True", met
