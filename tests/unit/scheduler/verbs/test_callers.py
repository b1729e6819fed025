"""Who may ask what: verbs from this machine or with a certificate, pages from everywhere, the inside view from this machine."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from headroom.daemon.settings import SettingsError, load
from headroom.errors import HeadroomError
from scheduler.settings import SchedulerSettings
from scheduler.verbs.tls import ServerCertificate, uses_tls
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, PODS, Running, extender, node, pod

MESH = "127.0.0.6"  # Istio's sidecar hands over the calls of other pods from there
FILES = ("tls_cert_file", "tls_key_file", "tls_client_ca_file")


@contextlib.asynccontextmanager
async def running(tmp_path: Path, **settings: Any) -> AsyncIterator[Running]:
    async with ApiServer() as api:
        api.put(NODES, node("gpu", 80))
        async with extender(api, tmp_path, preemption=False, naming_ahead=False, **settings) as ready:
            yield ready


async def ask(
    url: str, path: str, body: object = None, *, source: str = MESH, tls: ssl.SSLContext | None = None
) -> int:
    connector = aiohttp.TCPConnector(local_addr=(source, 0), ssl=tls or False)
    async with aiohttp.ClientSession(connector=connector) as session:
        method = "GET" if body is None else "POST"
        async with session.request(method, url + path, json=body, headers={"X-Forwarded-For": "127.0.0.1"}) as answer:
            await answer.read()
            return answer.status


def bind_of(created: dict[str, Any]) -> dict[str, Any]:
    meta = created["metadata"]
    return {"PodName": meta["name"], "PodNamespace": "default", "PodUID": meta["uid"], "Node": "gpu"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param("/filter", {}, 403, id="filter"),
        pytest.param("/prioritize", {}, 403, id="prioritize"),
        pytest.param("/bind", {}, 403, id="bind"),
        pytest.param("/preempt", {}, 403, id="preempt"),
        pytest.param("/debug/snapshot", None, 403, id="the inside view"),
        pytest.param("/v1/fit", {"pod": pod("p", vram="1Gi")}, 200, id="fit"),
        pytest.param("/v1/explain?pod=default/none", None, 404, id="explain"),
        pytest.param("/metrics", None, 200, id="metrics"),
        pytest.param("/healthz", None, 200, id="liveness"),
        pytest.param("/readyz", None, 200, id="readiness"),
    ],
)
async def test_what_other_machines_may_ask(tmp_path: Path, path: str, body: dict[str, Any] | None, status: int) -> None:
    async with running(tmp_path) as extender:
        assert await ask(extender.url, path, body) == status


async def test_a_mesh_cannot_bind_for_another_pod(tmp_path: Path) -> None:
    async with running(tmp_path) as extender:
        created = await extender.create(pod("p", vram="40Gi"))
        assert await ask(extender.url, "/bind", bind_of(created)) == 403
        assert "nodeName" not in extender.api.get(PODS, "p")["spec"]
        assert await ask(extender.url, "/bind", bind_of(created), source="127.0.0.1") == 200
        assert extender.api.get(PODS, "p")["spec"]["nodeName"] == "gpu"


async def test_all_may_call_where_the_settings_say_so(tmp_path: Path) -> None:
    async with running(tmp_path, allow_remote=True) as extender:
        created = await extender.create(pod("p", vram="40Gi"))
        assert await ask(extender.url, "/bind", bind_of(created)) == 200
        assert extender.api.get(PODS, "p")["spec"]["nodeName"] == "gpu"
        assert await ask(extender.url, "/debug/snapshot") == 403


# Over TLS


class Authority:
    """A certificate authority, and files of the server's that it signed for."""

    def __init__(self, folder: Path) -> None:
        self._ca, self._folder = trustme.CA(), folder
        self.settings = {name: str(folder / name) for name in FILES}
        self._ca.cert_pem.write_to_path(self.settings["tls_client_ca_file"])
        self.renew()

    def renew(self) -> None:
        server = self._ca.issue_cert("127.0.0.1", common_name="headroom")
        server.cert_chain_pems[0].write_to_path(self.settings["tls_cert_file"])
        server.private_key_pem.write_to_path(self.settings["tls_key_file"])

    def client(self, common_name: str = "kube-scheduler", signed_by: trustme.CA | None = None) -> ssl.SSLContext:
        """What kube-scheduler's `tlsConfig` makes."""
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        (signed_by or self._ca).issue_cert("client", common_name=common_name).configure_cert(context)
        return context

    def without_certificate(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        return context


async def test_with_tls_only_a_certificate_opens_the_verbs(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with running(tmp_path, tls_port=0, **authority.settings) as extender:
        created = await extender.create(pod("p", vram="40Gi"))
        over_tls = f"https://127.0.0.1:{extender.tls_port}"
        for source in (MESH, "127.0.0.1"):
            assert await ask(extender.url, "/bind", bind_of(created), source=source) == 403
            assert await ask(extender.url, "/healthz", source=source) == 200
            for context in (authority.without_certificate(), authority.client(signed_by=trustme.CA())):
                with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                    await ask(over_tls, "/bind", bind_of(created), source=source, tls=context)
        assert "nodeName" not in extender.api.get(PODS, "p")["spec"]
        assert await ask(extender.url, "/debug/snapshot", source="127.0.0.1") == 200
        assert await ask(over_tls, "/bind", bind_of(created), tls=authority.client()) == 200
        assert extender.api.get(PODS, "p")["spec"]["nodeName"] == "gpu"


async def test_of_an_authority_that_signs_for_many_only_some_names_count(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    names = ("system:kube-scheduler",)
    async with running(tmp_path, tls_port=0, tls_client_names=names, **authority.settings) as extender:
        over_tls = f"https://127.0.0.1:{extender.tls_port}"
        assert await ask(over_tls, "/filter", {}, tls=authority.client("system:node:worker-1")) == 403
        assert await ask(over_tls, "/filter", {}, tls=authority.client("system:kube-scheduler")) == 400


async def test_a_certificate_that_was_renewed_is_taken_up_and_a_broken_one_is_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = ServerCertificate(load(SchedulerSettings, authority.settings))

    async def ignore(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(ignore, "127.0.0.1", 0, ssl=certificate.context) as server:
        port = server.sockets[0].getsockname()[1]

        async def shown() -> bytes | None:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client())
            found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            return found

        first = await shown()
        authority.renew()
        certificate.refresh()
        second = await shown()
        assert second != first
        Path(authority.settings["tls_cert_file"]).write_text("no certificate")
        certificate.refresh()
        assert await shown() == second


@pytest.mark.parametrize("missing", FILES)
def test_the_three_files_go_together(tmp_path: Path, missing: Any) -> None:
    settings: dict[str, Any] = {name: "file" for name in FILES if name != missing}
    with pytest.raises(SettingsError, match=missing):
        uses_tls(SchedulerSettings(**settings))
    assert not uses_tls(SchedulerSettings())


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(HeadroomError, match="TLS files cannot be used"):
        ServerCertificate(load(SchedulerSettings, {name: str(tmp_path / "none") for name in FILES}))
