"""Command lines, credentials and configuration files of a control plane.

Every component authenticates with a bearer token from a static file and is authorised by RBAC, as in a real cluster; only
the cluster's owner and kwok are `system:masters`. The API server makes its own serving certificate; Service account tokens
are signed with an EC key made here.
"""

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from simulations.kwok.process import free_port

HOST: Final = "127.0.0.1"
# Nothing in a simulated cluster depends on these: bootstrap, certificates, cloud, node addresses.
_CONTROLLERS_OFF: Final = (
    "bootstrap-signer-controller",
    "token-cleaner-controller",
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "certificatesigningrequest-signing-controller",
    "node-ipam-controller",
    "ttl-after-finished-controller",
)
_AUDIT_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],  # a watch that goes on has only its ResponseStarted
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class Files:
    """Where a cluster keeps what it writes; all under one temporary folder."""

    root: Path
    server: str
    """URL of the API server."""
    tokens: dict[str, str] = field(default_factory=dict)
    """User -> bearer token."""

    @property
    def certificate(self) -> Path:
        """The API server's certificate, which also names its authority. Made by the server at its first start."""
        return self.root / "certificates" / "apiserver.crt"

    @property
    def signing_key(self) -> Path:
        """Key of Service account tokens."""
        return self.root / "service-account.key"

    @property
    def audit_log(self) -> Path:
        """One JSON event a line, when the cluster was started with `audit`."""
        return self.root / "audit.jsonl"

    def kubeconfig(self, user: str) -> Path:
        """Kubeconfig of one of the static users."""
        return self.root / f"{user.replace(':', '-')}.kubeconfig"


ADMIN: Final = "admin"
KWOK: Final = "kwok"
SCHEDULER: Final = "system:kube-scheduler"
CONTROLLER_MANAGER: Final = "system:kube-controller-manager"
_GROUPS: Final = {ADMIN: "system:masters", KWOK: "system:masters", SCHEDULER: "", CONTROLLER_MANAGER: ""}


def prepare(root: Path, server: str, more_users: Mapping[str, str] = MappingProxyType({})) -> Files:
    """Write tokens, kubeconfigs, the signing key and the audit policy. `more_users` have their group (or an empty text)."""
    groups = _GROUPS | dict(more_users)
    files = Files(root, server, {user: secrets.token_hex(16) for user in groups})
    lines = [f'{token},{user},{user},"{groups[user]}"' for user, token in files.tokens.items()]
    (root / "tokens.csv").write_text("\n".join(lines) + "\n")
    for user, token in files.tokens.items():
        write_kubeconfig(files.kubeconfig(user), files, token)
    files.signing_key.write_text(_ec_private_key_pem())
    (root / "audit-policy.yaml").write_text(yaml.safe_dump(_AUDIT_POLICY))
    (root / "certificates").mkdir()
    return files


def write_kubeconfig(path: Path, files: Files, token: str) -> None:
    """A kubeconfig with a bearer token."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "headroom",
        "contexts": [{"name": "headroom", "context": {"cluster": "headroom", "user": "user"}}],
        "clusters": [
            {
                "name": "headroom",
                "cluster": {"server": files.server, "certificate-authority": str(files.certificate)},
            }
        ],
        "users": [{"name": "user", "user": {"token": token}}],
    }
    path.write_text(yaml.safe_dump(content))
    path.chmod(0o600)


def _ec_private_key_pem() -> str:
    """A P-256 key in SEC 1 form (RFC 5915); readers compute its public half."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of the curve: the key is below it
    private = (1 + secrets.randbelow(order - 1)).to_bytes(32, "big")
    curve = bytes.fromhex("a00a06082a8648ce3d030107")  # [0] OBJECT IDENTIFIER prime256v1
    body = b"\x02\x01\x01" + b"\x04\x20" + private + curve
    encoded = base64.b64encode(b"\x30" + bytes([len(body)]) + body).decode()
    lines = "\n".join(encoded[start : start + 64] for start in range(0, len(encoded), 64))
    return f"-----BEGIN EC PRIVATE KEY-----\n{lines}\n-----END EC PRIVATE KEY-----\n"


def etcd_command(binaries: Path, files: Files, port: int) -> list[str]:
    """etcd without fsync: the data need not outlive a crash of the machine, only of the API server."""
    client, peer = f"http://{HOST}:{port}", f"http://{HOST}:{free_port()}"
    return [
        str(binaries / "etcd"),
        f"--data-dir={files.root / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--quota-backend-bytes=4294967296",
        "--log-level=warn",
    ]


# What an API server is told where nodes are simulated.
SIMULATED_NODES: Final = (
    f"--bind-address={HOST}",
    f"--advertise-address={HOST}",
    "--endpoint-reconciler-type=none",  # a loopback address is no valid endpoint
    "--disable-admission-plugins=TaintNodesByCondition",  # nodes are created Ready: no not-ready taint to wait for
)


def api_server_command(
    binaries: Path, files: Files, port: int, etcd_port: int, *, audit: bool, options: Sequence[str] = SIMULATED_NODES
) -> list[str]:
    """kube-apiserver with RBAC and the default admission plugins."""
    command = [
        str(binaries / "kube-apiserver"),
        f"--etcd-servers=http://{HOST}:{etcd_port}",
        *options,
        f"--secure-port={port}",
        f"--cert-dir={files.certificate.parent}",
        "--authorization-mode=Node,RBAC",
        f"--token-auth-file={files.root / 'tokens.csv'}",
        f"--service-account-key-file={files.signing_key}",
        f"--service-account-signing-key-file={files.signing_key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--max-requests-inflight=1500",
        "--max-mutating-requests-inflight=1000",
        "--profiling=false",
    ]
    if audit:
        command += [f"--audit-policy-file={files.root / 'audit-policy.yaml'}", f"--audit-log-path={files.audit_log}"]
    return command


def controller_manager_command(
    binaries: Path, files: Files, port: int, *, node_grace_seconds: int = 24 * 3600
) -> list[str]:
    """kube-controller-manager. KWOK's nodes send no heartbeats: a node is gone when its object is, hence the long grace."""
    kubeconfig = files.kubeconfig(CONTROLLER_MANAGER)
    return [
        str(binaries / "kube-controller-manager"),
        f"--kubeconfig={kubeconfig}",
        f"--bind-address={HOST}",
        f"--secure-port={port}",
        "--leader-elect=false",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={files.signing_key}",
        f"--root-ca-file={files.certificate}",
        "--controllers=*," + ",".join(f"-{name}" for name in _CONTROLLERS_OFF),
        f"--node-monitor-grace-period={node_grace_seconds}s",
        "--node-monitor-period=10s",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]


def scheduler_command(binaries: Path, files: Files, port: int, config: Path, kubeconfig: Path) -> list[str]:
    """kube-scheduler with a configuration file; `kubeconfig` is for judging who may read its metrics."""
    return [
        str(binaries / "kube-scheduler"),
        f"--config={config}",
        f"--bind-address={HOST}",
        f"--secure-port={port}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--cert-dir={files.root / 'certificates'}",
    ]


def kwok_command(binaries: Path, files: Files, port: int) -> list[str]:
    """kwok, playing kubelet on every node by the stages beside this file; no leases, no heartbeats."""
    return [
        str(binaries / "kwok"),
        f"--kubeconfig={files.kubeconfig(KWOK)}",
        f"--config={Path(__file__).with_name('stages.yaml')}",
        "--manage-all-nodes",
        f"--server-address={HOST}:{port}",
    ]


def scheduler_config(
    *,
    extender_url: str | None = None,
    scheduler_names: tuple[str, ...] = ("default-scheduler",),
    verbs: tuple[str, ...] = ("filter", "prioritize", "bind"),
    managed_resources: tuple[str, ...] = (),
) -> dict[str, Any]:
    """A KubeSchedulerConfiguration, with an extender when its URL is given. Resources named are ignored by the scheduler
    itself except `nvidia.com/gpu` and the like, which a device plugin advertises: name those with a trailing `!`.

    Without `managed_resources` the extender is asked about every pod.
    """
    config: dict[str, Any] = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"qps": 5000, "burst": 10000},
        "leaderElection": {"leaderElect": False},
        "percentageOfNodesToScore": 100,
        "profiles": [{"schedulerName": name} for name in scheduler_names],
    }
    if extender_url is not None:
        extender: dict[str, Any] = {f"{verb}Verb": verb for verb in verbs}
        extender |= {
            "urlPrefix": extender_url,
            "nodeCacheCapable": True,
            "httpTimeout": "5s",
            "ignorable": False,
        }
        if "prioritize" in verbs:
            extender["weight"] = 1
        if managed_resources:
            extender["managedResources"] = [
                {"name": name.removesuffix("!"), "ignoredByScheduler": not name.endswith("!")}
                for name in managed_resources
            ]
        config["extenders"] = [extender]
    return config
