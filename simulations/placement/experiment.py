"""Runs the jobs of a placement study, in this process or in several; the result depends on the jobs alone."""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Final, TextIO

from headroom.domain.model import GpuNode
from simulations.placement.replay import Record, run_published
from simulations.placement.traces import Pod
from simulations.placement.vram import run_vram

_LEARNED: Final = "-learned"


@dataclass(frozen=True, slots=True)
class Trace:
    """A pod list on the nodes it runs on."""

    name: str
    nodes: tuple[GpuNode, ...]
    pods: tuple[Pod, ...]


@dataclass(frozen=True, slots=True)
class Study:
    """What all jobs share."""

    scenario: str
    departures: bool
    load: float
    traces: tuple[Trace, ...]


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """One run: the trace by its place in the study, the policy, the seed."""

    trace: int
    policy: str
    seed: int


class Progress:
    """Tells on stderr how many runs are done and how long the rest will take, at most once a second."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total, self._done = total, 0
        self._stream = stream or sys.stderr
        self._began = self._told = time.monotonic()

    def step(self) -> None:
        """Count one finished run."""
        self._done += 1
        now = time.monotonic()
        if now - self._told < 1.0 and self._done < self._total:
            return
        self._told = now
        left = (now - self._began) / self._done * (self._total - self._done)
        end = "\r" if self._stream.isatty() and self._done < self._total else "\n"
        self._stream.write(f"{self._done}/{self._total} runs, {left / 60:.0f} min {left % 60:02.0f} s left   {end}")
        self._stream.flush()


def run_job(study: Study, job: Job) -> Record:
    """One run of the study.

    Its `seconds` are processor time, which other load on the machine does not change much; on kwok, where other programs do
    most of the work, time on the clock.
    """
    trace = study.traces[job.trace]
    policy, learned = job.policy.removesuffix(_LEARNED), job.policy.endswith(_LEARNED)
    clock = time.monotonic if study.scenario == "kwok" else time.process_time
    began = clock()
    if study.scenario == "vram":
        record = run_vram(policy=policy, seed=job.seed, load=study.load, learned=learned, departures=study.departures)
    elif study.scenario == "kwok":
        from simulations.placement.on_kwok import run_on_kwok

        record = run_on_kwok(trace.nodes, trace.pods, trace=trace.name, policy=policy, seed=job.seed, load=study.load)
    else:
        record = run_published(
            trace.nodes, trace.pods, trace=trace.name, policy=policy, seed=job.seed, load=study.load, learned=learned
        )
    record.trace, record.policy = trace.name, job.policy
    record.seconds = clock() - began
    return record


_study: Study | None = None  # of a worker process, set once by its initialiser


def _start_worker(study: Study) -> None:
    global _study  # noqa: PLW0603 - sending the lists once per process, not once per job
    _study = study


def _run_in_worker(job: Job) -> Record:
    assert _study is not None
    return run_job(_study, job)


def run_jobs(study: Study, jobs: Sequence[Job], processes: int, progress: Progress) -> list[Record]:
    """All records in the order of `jobs`, whatever the number of processes."""
    records: dict[Job, Record] = {}
    if processes == 1:
        for job in jobs:
            records[job] = run_job(study, job)
            progress.step()
    else:
        with ProcessPoolExecutor(processes, initializer=_start_worker, initargs=(study,)) as pool:
            waiting = {pool.submit(_run_in_worker, job): job for job in jobs}
            for future in as_completed(waiting):
                records[waiting[future]] = future.result()
                progress.step()
    return [records[job] for job in jobs]
