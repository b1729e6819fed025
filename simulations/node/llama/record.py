"""`python -m simulations.node.llama.record FILE`: what the server's metrics do under load, second by second, as a fixture for tests.

The server runs as a process of this machine: six requests at once for half a minute, more than its slots hold, then none.
"""

import contextlib
import json
import re
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Final

import click

from simulations.kwok.process import free_port
from simulations.node.llama.build import find
from simulations.node.llama.load import Load
from simulations.node.llama.pods import SLOTS, command

AT_ONCE: Final = SLOTS + 2
_BUSY_SECONDS: Final = 30
_START_SECONDS: Final = 60


def sample(url: str) -> dict[str, float]:
    """Every metric of the page. Raises OSError while the server does not answer."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(llamacpp:\w+) (\S+)", page, re.MULTILINE)}


def record(url: str) -> list[dict[str, float]]:
    """Samples, about one a second, from the first request until nothing is left to do; the last also has what was answered."""
    samples = [sample(url)]
    with Load(url, contextlib.nullcontext, at_once=AT_ONCE) as load:
        end = time.monotonic() + _BUSY_SECONDS
        while time.monotonic() < end or samples[-1]["llamacpp:requests_processing"]:
            if time.monotonic() >= end:
                load.at_once = 0
            time.sleep(1.0)
            samples.append(sample(url))
    samples.append(sample(url) | {"answered": load.counts.answered, "tokens": load.counts.tokens})
    return samples


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    """Record the built server under load into FILE (JSON)."""
    built, port = find(), free_port()
    url = f"http://127.0.0.1:{port}"
    start = command(built, "127.0.0.1", port)
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait(url)
            samples = record(url)
        finally:
            server.terminate()
    lines = ",\n  ".join(json.dumps(one) for one in samples)
    file.write_text(f'{{"at_once": {AT_ONCE}, "slots": {SLOTS}, "samples": [\n  {lines}\n]}}\n')
    click.echo(f"{len(samples)} samples, {samples[-1]['answered']:.0f} requests answered: {file}")


def _wait(url: str) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError as error:
            if time.monotonic() > end:
                raise click.ClickException(f"the server is not ready after {_START_SECONDS} s: {error}") from error
            time.sleep(0.5)


if __name__ == "__main__":
    main()
