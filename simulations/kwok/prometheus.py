"""A Prometheus server for a simulated cluster; its targets can be named while it runs."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from simulations.kwok.process import ComponentError


class PrometheusServer:
    """Configuration of one server. The process itself belongs to the cluster."""

    def __init__(
        self, folder: Path, port: int, scrape_interval: str = "1s", rules: Path | None = None, host: str = "127.0.0.1"
    ) -> None:
        """Write the configuration into a new `folder`. `rules` is a file of recording or alerting rules; `host` is the
        address that it listens on."""
        self._folder, self._address = folder, f"{host}:{port}"
        (folder / "targets").mkdir(parents=True)
        config: dict[str, Any] = {
            "global": {
                "scrape_interval": scrape_interval,
                "scrape_timeout": scrape_interval,
                "evaluation_interval": scrape_interval,
            },
            "scrape_configs": [
                {
                    "job_name": "targets",
                    "honor_labels": True,
                    "file_sd_configs": [{"files": [str(folder / "targets" / "*.json")], "refresh_interval": "1s"}],
                }
            ],
        }
        if rules is not None:
            config["rule_files"] = [str(rules)]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    @property
    def url(self) -> str:
        """Where it answers queries."""
        return f"http://{self._address}"

    def command(self) -> list[str]:
        """How to run it. Raises ComponentError when Prometheus is not installed."""
        program = shutil.which("prometheus")
        if program is None:
            raise ComponentError(
                "no `prometheus` on the PATH: run tools/install-prerequisites.sh, or apt-get install prometheus"
            )
        return [
            program,
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self._address}",
            "--log.level=warn",
        ]

    def scrape(self, job: str, *addresses: str, labels: dict[str, str] | None = None) -> None:
        """Read metrics of these `host:port` addresses from now on, as job `job`; replaces the job's former addresses."""
        self.scrape_each(job, dict.fromkeys(addresses, labels or {}))

    def scrape_each(self, job: str, addresses: Mapping[str, Mapping[str, str]]) -> None:
        """The same where each address has labels of its own, as service discovery would give them."""
        content = [{"targets": [address], "labels": {"job": job, **labels}} for address, labels in addresses.items()]
        path = self._folder / "targets" / f"{job}.json"
        whole = path.with_suffix(".part")  # Prometheus may read at any moment: rename a finished file
        whole.write_text(json.dumps(content))
        whole.rename(path)
