"""A device plugin that speaks to kubelet as NVIDIA's does, for cards that are not there (device plugin API v1beta1).

    python -m simulations.node.plugin.device_plugin --cards GPU-a,GPU-b --replicas 4 --policy distributed --state FILE --log FILE

Devices are `UUID::n` with replicas, `UUID` without. GetPreferredAllocation chooses among shared devices as NVIDIA's plugin
documents it: `distributed` takes one device at a time from the card with the fewest devices given out, `packed` from the one
with the most, `spread` from the one that this container has least of. Among equals anyone: NVIDIA's walks a Go map; here
`--ties` says first, last, or a generator of `--seed`. Among whole cards NVIDIA's takes the best linked ones; `linked` does so by the
pairs of `--links`. With `none` the plugin says that it prefers nothing, and kubelet chooses alone. Allocate answers
NVIDIA_VISIBLE_DEVICES, with `--mps` also what an MPS plugin adds. The file of `--state` (JSON: `{"unhealthy": [ids]}`) is read twice
a second. Every call is a line of `--log`.
"""

import itertools
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import grpc

from simulations.node.plugin.messages import MESSAGES

FOLDER: Final = "/var/lib/kubelet/device-plugins"
_POLL_SECONDS: Final = 0.5
_MPS_PIPES: Final = "/run/nvidia/mps/nvidia.com/gpu"


def card_of(device: str) -> str:
    """The card that a device id names."""
    return device.partition("::")[0]


def device_ids(cards: Sequence[str], replicas: int) -> list[str]:
    """What the plugin advertises."""
    return [f"{card}::{at}" for card in cards for at in range(replicas)] if replicas > 1 else list(cards)


@dataclass(frozen=True)
class Chooser:
    """NVIDIA's choice among shared devices."""

    devices: Sequence[str]
    policy: str
    ties: str
    """first, last or random."""
    random: random.Random
    links: frozenset[frozenset[str]] = frozenset()
    """Pairs of cards with a better link than others."""

    @property
    def prefers(self) -> bool:
        """Whether kubelet shall ask which devices to take."""
        return self.policy != "none"

    def choose(self, available: Sequence[str], required: Sequence[str], size: int) -> list[str]:
        """`size` of the `available` device ids, the `required` among them."""
        if self.policy == "linked":
            return self._linked(sorted(available), required, size)
        free: dict[str, list[str]] = {}
        for device in sorted(available):
            if device not in required:
                free.setdefault(card_of(device), []).append(device)
        given = {card: sum(card_of(one) == card for one in self.devices) - len(left) for card, left in free.items()}
        picked = {card: sum(card_of(one) == card for one in required) for card in free}
        rules: dict[str, Callable[[str], tuple[int, int]]] = {
            "distributed": lambda card: (given[card], picked[card]),
            "packed": lambda card: (-given[card], picked[card]),
            "spread": lambda card: (picked[card], given[card]),
        }
        chosen = list(required)
        while len(chosen) < size:
            card = min(self._in_order([name for name, left in free.items() if left]), key=rules[self.policy])
            chosen.append(free[card].pop(0))
            given[card] += 1
            picked[card] += 1
        return chosen

    def _linked(self, available: Sequence[str], required: Sequence[str], size: int) -> list[str]:
        """The set with the most links; of equals the one that leaves the most links to others."""

        def links(cards: frozenset[str]) -> int:
            return sum(pair <= cards for pair in self.links)

        free = frozenset(map(card_of, available))

        def worth(devices: Sequence[str]) -> tuple[int, int]:
            cards = frozenset(map(card_of, devices))
            return links(cards), links(free - cards)

        sets = [each for each in itertools.combinations(available, size) if set(required) <= set(each)]
        best = max(sets, key=worth)
        return list(best)

    def _in_order(self, cards: list[str]) -> list[str]:
        if self.ties == "random":
            self.random.shuffle(cards)
            return cards
        return sorted(cards, reverse=self.ties == "last")


def links_of(cards: Sequence[str], pairs: str) -> frozenset[frozenset[str]]:
    """`0-3,1-2`: pairs of cards by their places."""
    return frozenset(frozenset(cards[int(at)] for at in pair.split("-")) for pair in pairs.split(",") if pair)


class Plugin:
    """The service; one method for each call of kubelet's."""

    def __init__(self, chooser: Chooser, state: Path | None, log: Path, *, mps: bool) -> None:
        self._chooser, self._state, self._log, self._mps = chooser, state, log, mps
        self.options = MESSAGES["DevicePluginOptions"](get_preferred_allocation_available=chooser.prefers)
        self._lock = threading.Lock()

    def log(self, call: str, **facts: Any) -> None:
        """One line of JSON."""
        with self._lock, self._log.open("a") as file:
            file.write(json.dumps({"call": call, **facts}) + "\n")

    def _unhealthy(self) -> frozenset[str]:
        try:
            return frozenset(json.loads(self._state.read_text())["unhealthy"]) if self._state else frozenset()
        except (OSError, ValueError):
            return frozenset()

    def list_and_watch(self, _request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """The devices, and again whenever one's health changes."""
        told: frozenset[str] | None = None
        while context.is_active():
            now = self._unhealthy()
            if now != told:
                told = now
                devices = [
                    MESSAGES["Device"](ID=one, health="Unhealthy" if one in now else "Healthy")
                    for one in self._chooser.devices
                ]
                yield MESSAGES["ListAndWatchResponse"](devices=devices)
            time.sleep(_POLL_SECONDS)

    def preferred(self, request: Any, _context: grpc.ServicerContext) -> Any:
        """Which of the free devices to take."""
        response = MESSAGES["PreferredAllocationResponse"]()
        for one in request.container_requests:
            available, required = list(one.available_deviceIDs), list(one.must_include_deviceIDs)
            chosen = self._chooser.choose(available, required, one.allocation_size)
            response.container_responses.add(deviceIDs=chosen)
            self.log("GetPreferredAllocation", available=sorted(available), required=required, chosen=chosen)
        return response

    def allocate(self, request: Any, _context: grpc.ServicerContext) -> Any:
        """What a container with these devices needs."""
        response = MESSAGES["AllocateResponse"]()
        for one in request.container_requests:
            cards = ",".join(dict.fromkeys(card_of(device) for device in one.devices_ids))
            answer = response.container_responses.add()
            answer.envs.add(key="NVIDIA_VISIBLE_DEVICES", value=cards)
            if self._mps:
                answer.envs.add(key="CUDA_MPS_PIPE_DIRECTORY", value="/mps/nvidia.com/gpu/pipe")
                Path(_MPS_PIPES).mkdir(parents=True, exist_ok=True)
                answer.mounts.add(container_path="/mps/nvidia.com/gpu", host_path=_MPS_PIPES)
            self.log("Allocate", devices=list(one.devices_ids))
        return response


def _serve(plugin: Plugin, socket: Path) -> grpc.Server:
    def unary(method: Callable[[Any, grpc.ServicerContext], Any], request: str) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            method, MESSAGES[request].FromString, lambda message: message.SerializeToString()
        )

    handlers = {
        "GetDevicePluginOptions": unary(lambda _request, _context: plugin.options, "Empty"),
        "ListAndWatch": grpc.unary_stream_rpc_method_handler(
            plugin.list_and_watch, MESSAGES["Empty"].FromString, lambda message: message.SerializeToString()
        ),
        "GetPreferredAllocation": unary(plugin.preferred, "PreferredAllocationRequest"),
        "Allocate": unary(plugin.allocate, "AllocateRequest"),
        "PreStartContainer": unary(lambda _request, _context: MESSAGES["Empty"](), "Empty"),
    }
    socket.unlink(missing_ok=True)
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", handlers),))
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    return server


def _register(kubelet: Path, socket: Path, resource: str, options: Any) -> None:
    request = MESSAGES["RegisterRequest"](
        version="v1beta1", endpoint=socket.name, resource_name=resource, options=options
    )
    with grpc.insecure_channel(f"unix://{kubelet}", options=[("grpc.default_authority", "localhost")]) as channel:
        call = channel.unary_unary(
            "/v1beta1.Registration/Register",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES["Empty"].FromString,
        )
        call(request, timeout=5)


def run_for_ever(plugin: Plugin, folder: Path, resource: str) -> None:
    """Serve and register; again whenever kubelet has started anew, which empties the folder: as NVIDIA's plugin does."""
    kubelet, socket = folder / "kubelet.sock", folder / f"nvidia-{resource.replace('/', '_')}.sock"
    server: grpc.Server | None = None
    known: int | None = None
    while True:
        try:
            now = kubelet.stat().st_ctime_ns
            if now != known or not socket.exists():
                if server is not None:
                    server.stop(0)
                server = _serve(plugin, socket)
                _register(kubelet, socket, resource, plugin.options)
                known = now
                plugin.log("registered", pid=os.getpid())
        except (OSError, grpc.RpcError) as error:
            plugin.log("waiting", error=str(error)[:200])
        time.sleep(_POLL_SECONDS)


@click.command()
@click.option("--cards", required=True, help="UUIDs, with commas.")
@click.option("--replicas", default=1, show_default=True, help="Devices that each card is advertised as.")
@click.option(
    "--policy", default="distributed", type=click.Choice(["distributed", "packed", "spread", "linked", "none"])
)
@click.option(
    "--links", default="", help="With --policy linked: the pairs of cards with the better links, such as 0-3,1-2."
)
@click.option(
    "--ties", default="random", type=click.Choice(["first", "last", "random"]), help="Who is taken of equals."
)
@click.option("--seed", default=1, show_default=True)
@click.option("--resource", default="nvidia.com/gpu", show_default=True)
@click.option("--mps", is_flag=True, help="Answer Allocate as an MPS plugin does.")
@click.option("--state", type=click.Path(path_type=Path), help="JSON file with the ids of unhealthy devices.")
@click.option("--log", required=True, type=click.Path(path_type=Path))
@click.option("--folder", default=FOLDER, show_default=True, type=click.Path(path_type=Path))
def main(
    cards: str, replicas: int, policy: str, links: str, ties: str, seed: int, resource: str, mps: bool, state: Path | None,
    log: Path, folder: Path,
) -> None:  # fmt: skip
    """Advertise cards that are not there, until killed."""
    names = cards.split(",")
    chooser = Chooser(device_ids(names, replicas), policy, ties, random.Random(seed), links_of(names, links))
    run_for_ever(Plugin(chooser, state, log, mps=mps), folder, resource)


if __name__ == "__main__":
    main()
