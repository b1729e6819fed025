"""A Prometheus server for a simulated cluster; its targets can be named while it runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from simulations.kwok.process import ComponentError


class PrometheusServer:
    """Configuration of one server. The process itself belongs to the cluster."""

    def __init__(self, folder: Path, port: int, scrape_interval: str = "1s", rules: Path | None = None) -> None:
        """Write the configuration into a new `folder`. `rules` is a file of recording or alerting rules."""
        self._folder, self._port = folder, port
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
        return f"http://127.0.0.1:{self._port}"

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
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]

    def scrape(self, job: str, *addresses: str, labels: dict[str, str] | None = None) -> None:
        """Read metrics of these `host:port` addresses from now on, as job `job`; replaces the job's former addresses."""
        content = [{"targets": list(addresses), "labels": {"job": job, **(labels or {})}}]
        path = self._folder / "targets" / f"{job}.json"
        whole = path.with_suffix(".part")  # Prometheus may read at any moment: rename a finished file
        whole.write_text(json.dumps(content))
        whole.rename(path)
