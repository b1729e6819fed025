"""How a Prometheus is got at: credentials, headers, certificates, and that none of it is shown."""

import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from headroom.prometheus.client import PrometheusError, PrometheusSource, PrometheusUnreachableError
from headroom.prometheus.settings import PrometheusSettings
from tests.fakes.platforms import Platform
from tests.fakes.prometheus import FakePrometheus, series

NOW = 1_800_000_000.0
SECRET = "s3cret-token"


@pytest.fixture
async def upstream() -> AsyncIterator[FakePrometheus]:
    async with FakePrometheus().serve() as running:
        running.answer("up", series({"job": "a"}, (NOW, 1.0)))
        yield running


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def listens(authority: trustme.CA, *, asks_for_certificate: bool = False) -> ssl.SSLContext:
    """What a server on 127.0.0.1 listens with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    if asks_for_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
    return context


@pytest.fixture
def trust(authority: trustme.CA, tmp_path: Path) -> str:
    """File with the authority's own certificate."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


async def asked(url: str, **settings: Any) -> list[str]:
    source = PrometheusSource.of(PrometheusSettings(prometheus_url=url, **settings))
    try:
        return [one.labels["job"] for one in await source.query("up")]
    finally:
        await source.close()


class TestCredentials:
    async def test_a_bearer_token_is_read_again_when_its_file_changes(
        self, upstream: FakePrometheus, tmp_path: Path
    ) -> None:
        """Q13, kedacore/keda#1559: OpenShift's querier wants the service account's token, which is renewed."""
        token = tmp_path / "token"
        token.write_text(f"{SECRET}\n")
        async with Platform(upstream.url, "openshift").serve() as platform:
            source = PrometheusSource.of(
                PrometheusSettings(prometheus_url=platform.url, prometheus_bearer_token_file=str(token))
            )
            assert len(await source.query("up")) == 1
            platform.secret = "another-token"
            with pytest.raises(PrometheusError, match="status 401"):
                await source.query("up")
            token.write_text("another-token")
            os.utime(token, ns=(1, 1))
            assert len(await source.query("up")) == 1
            await source.close()

    async def test_a_token_that_a_server_repeats_is_not_shown(self, upstream: FakePrometheus, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text("wrong-token")
        async with Platform(upstream.url, "openshift").serve() as platform:
            with pytest.raises(PrometheusError, match="status 401") as caught:
                await asked(platform.url, prometheus_bearer_token_file=str(token))
        assert "wrong-token" not in str(caught.value)
        assert "***" in str(caught.value)

    async def test_user_and_password_of_the_address_are_sent_and_never_shown(self, upstream: FakePrometheus) -> None:
        """Q14: a password in the address stood in every object's status."""
        async with Platform(upstream.url, user="reader", secret="p@ss word").serve() as platform:
            url = platform.url.replace("://", "://reader:p%40ss%20word@")
            assert await asked(url) == ["a"]
            platform.secret = "rotated"
            source = PrometheusSource(url)
            assert source.url == platform.url
            with pytest.raises(PrometheusError) as caught:
                await source.query("up")
            await source.close()
            platform.user = ""
            await _unreachable(PrometheusSource(url.replace(platform.url.rsplit(":", 1)[1], "1")))
        assert "401" in str(caught.value)
        for secret in ("p@ss", "p%40ss", "cmVhZGVy"):
            assert secret not in str(caught.value)

    @pytest.mark.parametrize("url", ["http://user:pass@", "user:pass@host", "ftp://user:pass@host/"])
    def test_an_address_that_is_none_is_not_shown_with_its_password(self, url: str) -> None:
        with pytest.raises(PrometheusError, match="not the address") as caught:
            PrometheusSource(url)
        assert "pass" not in str(caught.value)

    async def test_headers(self, upstream: FakePrometheus, tmp_path: Path) -> None:
        """Q12, kedacore/keda#2667: a tenant's name in a header."""
        secret = tmp_path / "headers"
        secret.write_text("# of the gateway\nX-Api-Key: 12:34=5\n\n")
        async with Platform(upstream.url, "mimir").serve() as platform:
            with pytest.raises(PrometheusError, match="status 401: no org id"):
                await asked(platform.url)
            assert await asked(
                platform.url, prometheus_headers=("X-Scope-OrgID=team-a",), prometheus_headers_file=str(secret)
            ) == ["a"]
            headers = platform.calls[-1][2]
        assert (headers["X-Scope-OrgID"], headers["X-Api-Key"]) == ("team-a", "12:34=5")

    async def test_credentials_do_not_follow_to_another_address(self, upstream: FakePrometheus, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text(SECRET)
        async with Platform(upstream.url, "pointing").serve() as pointing:
            with pytest.raises(PrometheusError, match="status 307: it points to http"):
                await asked(pointing.url, prometheus_bearer_token_file=str(token))
            assert upstream.queries == []
            assert await asked(pointing.url) == ["a"]


class TestTls:
    async def test_a_private_authority(
        self, upstream: FakePrometheus, authority: trustme.CA, trust: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Q19: words that say that the authority is not known, and the setting that makes it so; Q19b: the variable."""
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        async with Platform(upstream.url).serve(listens(authority)) as platform:
            with pytest.raises(PrometheusUnreachableError, match=r"certificate is not trusted: .*prometheus_ca_file"):
                await asked(platform.url)
            assert await asked(platform.url, prometheus_ca_file=trust) == ["a"]
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", trust)
            assert await asked(platform.url) == ["a"]

    async def test_a_client_certificate_is_shown_and_renewed(
        self, upstream: FakePrometheus, authority: trustme.CA, trust: str, tmp_path: Path
    ) -> None:
        shown = tmp_path / "client.pem"
        authority.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(str(shown))
        async with Platform(upstream.url).serve(listens(authority, asks_for_certificate=True)) as platform:
            with pytest.raises(PrometheusUnreachableError):
                await asked(platform.url, prometheus_ca_file=trust)
            settings = PrometheusSettings(
                prometheus_url=platform.url, prometheus_ca_file=trust, prometheus_client_cert_file=str(shown)
            )
            source = PrometheusSource.of(settings)
            assert len(await source.query("up")) == 1
            authority.issue_cert("renewed@example.org").private_key_and_cert_chain_pem.write_to_path(str(shown))
            assert len(await source.query("up")) == 1
            shown.unlink()
            with pytest.raises(PrometheusError, match=r"client\.pem cannot be used for TLS: No such file"):
                await source.query("up")
            await source.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prometheus_bearer_token_file": "/none"}, "prometheus_bearer_token_file /none cannot be read: No such file"),
        ({"prometheus_headers_file": "/none"}, "prometheus_headers_file /none cannot be read"),
        ({"prometheus_ca_file": "/none"}, "/none cannot be used for TLS"),
        ({"prometheus_client_key_file": "/none"}, "needs prometheus_client_cert_file"),
        ({"prometheus_headers": ("no-value-s3cret",)}, "prometheus_headers: entry 1 is not NAME=VALUE"),
        ({"prometheus_headers": ("a b=s3cret",)}, "entry 1 is not"),
        ({"prometheus_matchers": ("cluster",)}, "prometheus_matchers: 'cluster' is not a matcher"),
    ],
)
def test_settings_that_cannot_be_used_are_named_at_the_start(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(PrometheusError, match=words) as caught:
        PrometheusSource.of(PrometheusSettings(prometheus_url="http://p", **settings))
    assert "s3cret" not in str(caught.value)


async def test_a_query_part_of_the_address_goes_with_every_call(upstream: FakePrometheus) -> None:
    """VictoriaMetrics' `extra_label`, Thanos' `dedup`."""
    async with Platform(upstream.url).serve() as platform:
        source = PrometheusSource(f"{platform.url}/?extra_label=cluster%3Da&dedup=true")
        assert source.url == platform.url
        for query in ("up", "up " + "# padding\n" * 500):
            await source.query(query)
        await source.close()
    assert all(path.split("?")[1].startswith("extra_label=cluster%3Da&dedup=true") for path in platform.paths)
    assert len(platform.paths) == 2


async def _unreachable(source: PrometheusSource) -> None:
    with pytest.raises(PrometheusUnreachableError) as caught:
        await source.query("up")
    await source.close()
    assert "p%40ss" not in str(caught.value)
    assert "reader" not in str(caught.value)
