"""Names of Services to their cluster addresses, over UDP: what CoreDNS does, as far as pods of Headroom need it (A records
of `svc.cluster.local`; RFC 1035). Run inside a node as `python -m simulations.node.inside.dns ADDRESS KUBECONFIG`.
"""

import socket
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import yaml

from simulations.kwok.api import Api, ApiError

_A_RECORD: Final = 1
_SECONDS_TO_LIVE: Final = 2
_FOUND, _NO_SUCH_NAME = 0x8580, 0x8583
_FRESH_SECONDS: Final = 1.0


def question(packet: bytes) -> tuple[str, int, int]:
    """Name, type, and where the question ends. Raises IndexError or struct.error for what is no question."""
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode("ascii", "replace"))
        at += 1 + packet[at]
    kind: int = struct.unpack("!H", packet[at + 1 : at + 3])[0]
    return ".".join(labels).lower(), kind, at + 5


def answer(packet: bytes, services: Mapping[str, str]) -> bytes:
    """The reply: an address, nothing for another type of record, or that there is no such name.

    `services` are addresses by `namespace/name`. Raises as `question` does.
    """
    name, kind, end = question(packet)
    parts = name.split(".")
    address = services.get(f"{parts[1]}/{parts[0]}") if parts[2:] == ["svc", "cluster", "local"] else None
    record = b""
    if address and kind == _A_RECORD:
        record = b"\xc0\x0c" + struct.pack("!HHIH", _A_RECORD, 1, _SECONDS_TO_LIVE, 4) + socket.inet_aton(address)
    counts = struct.pack("!HHHHH", _FOUND if address else _NO_SUCH_NAME, 1, bool(record), 0, 0)
    return packet[:2] + counts + packet[12:end] + record


class Services:
    """Addresses of Services, asked for when they are older than a second."""

    def __init__(self, api: Api) -> None:
        self._api, self._known, self._asked = api, dict[str, str](), float("-inf")

    def now(self) -> Mapping[str, str]:
        """By `namespace/name`; the last ones known while the API server is away."""
        if time.monotonic() - self._asked > _FRESH_SECONDS:
            try:
                items = self._api.items("/api/v1/services")
            except (ApiError, OSError):
                return self._known
            self._known = {
                f"{item['metadata']['namespace']}/{item['metadata']['name']}": item["spec"]["clusterIP"]
                for item in items
                if item["spec"].get("clusterIP") not in (None, "None")
            }
            self._asked = time.monotonic()
        return self._known


def main(address: str, kubeconfig: Path) -> None:
    """Answer for ever."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, token = config["clusters"][0]["cluster"], config["users"][0]["user"]["token"]
    url = urlsplit(cluster["server"])
    services = Services(Api(str(url.hostname), url.port or 443, token, Path(cluster["certificate-authority"])))
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    while True:
        packet, client = server.recvfrom(4096)
        try:
            server.sendto(answer(packet, services.now()), client)
        except (IndexError, struct.error):
            continue  # not a question


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
