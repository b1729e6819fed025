"""Requests to a real API server as one account or another, for the tests of what admission says to whom."""

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

import yaml

from simulations.kwok.cluster import Cluster

ADMIN = ""
JSON = "application/json"


class Caller:
    """Asks the API server; unless another group is named, with all rights, so that nothing but admission stands in its way."""

    def __init__(self, cluster: Cluster) -> None:
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        self._server = config["clusters"][0]["cluster"]["server"]
        self._token = config["users"][0]["user"]["token"]
        self._context = ssl._create_unverified_context()

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        user: str = ADMIN,
        group: str = "system:masters",
        kind: str = JSON,
    ) -> tuple[int, Any, str]:
        """Status, answer and the warnings that came with it."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        if user:
            headers |= {"Impersonate-User": user, "Impersonate-Group": group}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._server + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=20) as answer:
                return answer.status, json.load(answer), " ".join(answer.headers.get_all("Warning") or ())
        except urllib.error.HTTPError as error:
            return error.code, json.load(error), ""
