"""Readings through NVML. Only this module and `nvml_links` import `pynvml` (of the distribution nvidia-ml-py).

Each call is judged by itself. "Not supported" makes one field missing; "card is lost" makes one card broken; "driver not loaded"
ends the reading with a ReaderError, after which the next reading starts the library anew.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import pynvml

from agent.cards.nvml_links import LinkWatch
from agent.cards.reader import (
    BrokenCard,
    CardReading,
    Fault,
    Missing,
    Number,
    ProcessUse,
    ReaderError,
    Reading,
    Whole,
    counter,
    missing_fields,
    model_name,
    ratio_of_percent,
)
from headroom.domain.links import Links

T = TypeVar("T")

_DRIVER_GONE: Final = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
}
_OUT_OF_REACH: Final = {pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_NO_PERMISSION}
ENERGY_SECONDS: Final = 30.0
"""On an H200 with driver 580 this one call took 6.1 of the 8.3 ms of a reading of one card."""
_SAMPLE_HOLDS_MICROSECONDS: Final = 2_000_000
"""The driver keeps a second or so of samples, taken every 1/6 s to 1 s by product."""
_CARD_GONE: Final = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "lost",
    pynvml.NVML_ERROR_GPU_NOT_FOUND: "lost",
    pynvml.NVML_ERROR_RESET_REQUIRED: "reset_required",
}
_MISSING: Final = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: Missing.NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: Missing.NOT_SUPPORTED,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: Missing.NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION: Missing.NO_PERMISSION,
    pynvml.NVML_ERROR_NOT_FOUND: Missing.NOT_AVAILABLE,
    pynvml.NVML_ERROR_NO_DATA: Missing.NOT_AVAILABLE,
}
_FAULT_EVENTS: Final = pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypeDoubleBitEccError
_PATIENCE_SECONDS: Final = 2.0
"""Longer than any wait for events that the agent makes."""
_CLOCK_SLACK_MICROSECONDS: Final = 100_000
_HIGHEST_POWER_WATTS: Final = 100_000.0  # above it a 32-bit mark for "no value", not a card
_PROCESS_LISTS: Final = (
    pynvml.nvmlDeviceGetComputeRunningProcesses_v3,
    pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3,
    pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3,
)


class _CardGoneError(Exception):
    """This card cannot be read; the text is the reason, from BrokenCard's vocabulary."""


def _ask(call: Callable[..., T], *args: Any) -> T | Missing:
    """The answer of one NVML call, or why there is none. Raises _CardGoneError and ReaderError for what is worse than a missing field."""
    try:
        return call(*args)
    except pynvml.NVMLError as error:
        code = error.value
        if code in _DRIVER_GONE:
            raise ReaderError(f"NVML: {error}") from error
        if code in _CARD_GONE:
            raise _CardGoneError(_CARD_GONE[code]) from error
        return _MISSING.get(code, Missing.FAILED)
    except UnicodeDecodeError:
        return Missing.FAILED


def _open(call: Callable[..., T], *args: Any) -> T:
    """The answer of a call without which nothing can be read. Raises ReaderError."""
    try:
        return call(*args)
    except (pynvml.NVMLError, OSError) as error:
        number = getattr(error, "value", None)
        hint = "; no NVIDIA driver on this machine?" if number == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND else ""
        raise ReaderError(f"NVML: {error}{hint}", out_of_reach=number in _OUT_OF_REACH) from error


class NvmlReader:
    """Reads every card of this machine; implements `agent.cards.reader.Reader`."""

    def __init__(
        self,
        *,
        sleep: Callable[[float], None] = time.sleep,
        wall: Callable[[], float] = time.time,
        energy_seconds: float = ENERGY_SECONDS,
    ) -> None:
        """`energy_seconds` is the least time between two readings of a card's energy counter."""
        self._sleep, self._wall, self._energy_seconds = sleep, wall, energy_seconds
        self._energy: dict[str, tuple[float, Whole]] = {}
        self._now = 0.0
        self._whole: dict[str, Any] = {}
        """Handles by UUID of the cards that are not partitioned, as of this reading."""
        self._links = LinkWatch(_ask)
        self._last_sm: dict[str, dict[int, tuple[int, float]]] = {}
        """By card and process: when its last sample was taken (microseconds), and its share of the multiprocessors."""
        self._driver = ""
        self._started = False
        self._events: Any = None
        self._listening: set[str] = set()
        self._faults: deque[Fault] = deque(maxlen=1024)
        self._ids: dict[int, str] = {}
        self._sampled_to: dict[str, int] = {}
        self._in_driver = threading.Lock()

    def read(self, now: float) -> Reading:
        """See Reader."""
        with self._in_driver:
            return self._read(now)

    def _read(self, now: float) -> Reading:
        self._start()
        self._now = now
        self._whole.clear()
        cards: list[CardReading] = []
        broken: list[BrokenCard] = []
        try:
            for index in range(_open(pynvml.nvmlDeviceGetCount)):
                try:
                    cards += self._cards(index)
                except _CardGoneError as gone:
                    broken.append(BrokenCard(index, str(gone), self._ids.get(index, "")))
            links, problem = self._links_now()
        except ReaderError:
            self._end()
            raise
        faults = tuple(self._faults.popleft() for _ in range(len(self._faults)))
        missing = tuple(entry for card in cards for entry in missing_fields(card))
        return Reading(now, tuple(cards), tuple(broken), faults, self._driver, links, problem, missing)

    def _links_now(self) -> tuple[Links | None, str]:
        try:
            return self._links.of(self._whole, self._now)
        except _CardGoneError as gone:
            return None, f"a card went while links were asked for: {gone}"

    def wait(self, seconds: float) -> bool:
        """See Reader. Sleeps in the driver, which wakes it for critical Xid and double-bit ECC events."""
        with self._in_driver:
            return self._wait(seconds)

    def _wait(self, seconds: float) -> bool:
        if self._events is None or not self._listening:
            self._sleep(seconds)
            return False
        try:
            event = pynvml.nvmlEventSetWait_v2(self._events, max(int(seconds * 1000), 1))
            xid = int(event.eventData) if event.eventType == pynvml.nvmlEventTypeXidCriticalError else 0
            self._faults.append(Fault(pynvml.nvmlDeviceGetUUID(event.device), xid))
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_TIMEOUT:
                return False
            # A lost card would end every further wait at once. The reading that follows says which one it is, and
            # listens to the others anew.
            self._renew_events()
            return bool(error.value in _CARD_GONE)
        return True

    def _renew_events(self) -> None:
        if self._events is not None:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(self._events)
        self._events = None
        self._listening.clear()
        with contextlib.suppress(pynvml.NVMLError):
            self._events = pynvml.nvmlEventSetCreate()

    def close(self) -> None:
        """See Reader. Leaves the library open when a call hangs in it: pulling it away would crash the process."""
        if self._in_driver.acquire(timeout=_PATIENCE_SECONDS):
            try:
                self._end()
            finally:
                self._in_driver.release()

    def _end(self) -> None:
        if self._events is not None:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(self._events)
        if self._started:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
        self._started, self._events = False, None
        self._energy.clear()
        self._whole.clear()
        self._links.forget()
        self._listening.clear()
        self._ids.clear()

    def _start(self) -> None:
        if self._started:
            return
        _open(pynvml.nvmlInit)
        self._started = True
        with contextlib.suppress(pynvml.NVMLError):
            self._driver = str(pynvml.nvmlSystemGetDriverVersion())
        self._renew_events()

    def _cards(self, index: int) -> Iterator[CardReading]:
        """The card at an index, followed by its MIG instances."""
        handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
        uuid = handle if isinstance(handle, Missing) else _ask(pynvml.nvmlDeviceGetUUID, handle)
        if isinstance(uuid, Missing):
            raise _CardGoneError("unreadable")
        self._ids[index] = uuid
        self._listen(uuid, handle)
        mig = _ask(pynvml.nvmlDeviceGetMigMode, handle)
        partitioned = mig if isinstance(mig, Missing) else mig[0] == 1
        if partitioned is not True:
            self._whole[uuid] = handle
        card = self._physical(handle, uuid, index, partitioned)
        instances = self._instances(handle, card) if partitioned is True else []
        yield card
        yield from instances

    def _physical(self, handle: Any, uuid: str, index: int, mig: bool | Missing) -> CardReading:
        total, reserved, used, free = _memory(handle)
        utilization = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
        sm_by_pid = self._sm_by_pid(handle, uuid)
        energy_at, energy = self._energy_of(handle, uuid)
        return CardReading(
            id=uuid,
            index=index,
            model=_name(handle),
            memory_total_bytes=total,
            memory_reserved_bytes=reserved,
            memory_used_bytes=used,
            memory_free_bytes=free,
            utilization_ratio=utilization if isinstance(utilization, Missing) else ratio_of_percent(utilization.gpu),
            memory_utilization_ratio=(
                utilization if isinstance(utilization, Missing) else ratio_of_percent(utilization.memory)
            ),
            sm_ratio=sm_by_pid if isinstance(sm_by_pid, Missing) else min(sum(sm_by_pid.values(), 0.0), 1.0),
            power_watts=_watts(_ask(pynvml.nvmlDeviceGetPowerUsage, handle)),
            power_limit_watts=_watts(_ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
            energy_millijoules=energy,
            energy_at=energy_at,
            temperature_celsius=_celsius(_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)),
            ecc_uncorrected=_counted(
                _ask(
                    pynvml.nvmlDeviceGetTotalEccErrors,
                    handle,
                    pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                    pynvml.NVML_VOLATILE_ECC,
                )
            ),
            row_remap_broken=_remap_broken(handle),
            mig=mig,
            # A partitioned card lists its instances' processes, which they list themselves.
            processes=() if mig is True else _processes(handle, sm_by_pid),
        )

    def _instances(self, handle: Any, parent: CardReading) -> list[CardReading]:
        """MIG instances of a partitioned card. Power, energy and health belong to the parent."""
        most = _ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle)
        instances = []
        for position in range(most if isinstance(most, int) else 0):
            instance = _ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, position)
            uuid = instance if isinstance(instance, Missing) else _ask(pynvml.nvmlDeviceGetUUID, instance)
            if isinstance(uuid, Missing):
                continue
            total, reserved, used, free = _memory(instance)
            instances.append(
                CardReading(
                    id=uuid,
                    index=parent.index,
                    model=_name(instance),
                    memory_total_bytes=total,
                    memory_reserved_bytes=reserved,
                    memory_used_bytes=used,
                    memory_free_bytes=free,
                    mig=False,
                    parent=parent.id,
                    processes=_processes(instance, Missing.NOT_SUPPORTED),
                )
            )
        return instances

    def _listen(self, uuid: str, handle: Any) -> None:
        if self._events is None or uuid in self._listening:
            return
        supported = _ask(pynvml.nvmlDeviceGetSupportedEventTypes, handle)
        wanted = _FAULT_EVENTS if isinstance(supported, Missing) else _FAULT_EVENTS & supported
        # A card refuses the whole set for one type that it does not know.
        if wanted and not isinstance(_ask(pynvml.nvmlDeviceRegisterEvents, handle, wanted, self._events), Missing):
            self._listening.add(uuid)

    def _sm_by_pid(self, handle: Any, uuid: str) -> dict[int, float] | Missing:
        """Mean multiprocessor share per process over the driver's samples since the last reading."""
        since, now = self._sampled_to.get(uuid, 0), int(self._wall() * 1e6)
        if since > now + _CLOCK_SLACK_MICROSECONDS:
            # The clock was set back. Until it had caught up no sample would count as new, and all would look idle.
            self._sampled_to[uuid] = now
            return Missing.NOT_AVAILABLE
        try:
            samples = pynvml.nvmlDeviceGetProcessUtilization(handle, since)
        except pynvml.NVMLError as error:
            # No sample since then. (The binding raises "success" for an empty list.)
            if error.value not in (pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_NOT_FOUND):
                return _ask(_raise, error)
            samples = []
        sums: dict[int, list[int]] = {}
        last = self._last_sm.setdefault(uuid, {})
        for sample in samples:
            if sample.timeStamp > since and sample.smUtil <= 100:
                sums.setdefault(sample.pid, []).append(sample.smUtil)
                self._sampled_to[uuid] = max(self._sampled_to.get(uuid, 0), sample.timeStamp)
        newest = self._sampled_to.get(uuid, 0)
        means = {pid: sum(shares) / len(shares) / 100 for pid, shares in sums.items()}
        last.update({pid: (newest, mean) for pid, mean in means.items()})
        # The driver samples one process at a time: one without a new sample goes on as it was, for as long as it may not have
        # been its turn. Then it has stopped to run anything.
        for pid in [pid for pid, (taken, _) in last.items() if now - taken > _SAMPLE_HOLDS_MICROSECONDS]:
            del last[pid]
        return {pid: share for pid, (_, share) in last.items()} | means

    def _energy_of(self, handle: Any, uuid: str) -> tuple[float | None, Whole]:
        """When the card's energy counter was read, and what it said then."""
        known = self._energy.get(uuid)
        if known is not None and 0 <= self._now - known[0] < self._energy_seconds:
            return known
        energy = _counted(_ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle))
        if isinstance(energy, Missing):
            self._energy.pop(uuid, None)
            return None, energy
        self._energy[uuid] = self._now, energy
        return self._now, energy


def _raise(error: Exception) -> Any:
    raise error


def _name(handle: Any) -> str:
    name = _ask(pynvml.nvmlDeviceGetName, handle)
    return "unknown" if isinstance(name, Missing) else model_name(name)


def _memory(handle: Any) -> tuple[Whole, Whole, Whole, Whole]:
    """Total, reserved, used, free bytes. Drivers without version 2 of the call count the reserve as used."""
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    reserved: Whole = memory if isinstance(memory, Missing) else counter(memory.reserved)
    if isinstance(memory, Missing):
        memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if isinstance(memory, Missing):
        return memory, reserved, memory, memory
    return counter(memory.total), reserved, counter(memory.used), counter(memory.free)


def _watts(milliwatts: int | Missing) -> Number:
    if isinstance(milliwatts, Missing):
        return milliwatts
    return milliwatts / 1000 if milliwatts / 1000 < _HIGHEST_POWER_WATTS else Missing.NOT_AVAILABLE


def _counted(value: int | Missing) -> Whole:
    return value if isinstance(value, Missing) else counter(value)


def _celsius(value: int | Missing) -> Number:
    if isinstance(value, Missing):
        return value
    return float(value) if value < 1000 else Missing.NOT_AVAILABLE


def _remap_broken(handle: Any) -> bool | Missing:
    rows = _ask(pynvml.nvmlDeviceGetRemappedRows, handle)
    if isinstance(rows, Missing):
        return rows
    _, _, pending, failed = rows
    return bool(pending or failed)


def _processes(handle: Any, sm_by_pid: dict[int, float] | Missing) -> tuple[ProcessUse, ...] | Missing:
    """Compute, graphics and MPS processes, each once. Missing only when none of the three lists can be had."""
    memory_by_pid: dict[int, Whole] = {}
    answers = [_ask(call, handle) for call in _PROCESS_LISTS]
    if all(isinstance(answer, Missing) for answer in answers):
        return next(answer for answer in answers if isinstance(answer, Missing))
    for answer in answers:
        for process in () if isinstance(answer, Missing) else answer:
            used = Missing.NOT_AVAILABLE if process.usedGpuMemory is None else counter(process.usedGpuMemory)
            before = memory_by_pid.get(process.pid, Missing.NOT_AVAILABLE)
            if isinstance(before, Missing) or (not isinstance(used, Missing) and used > before):
                memory_by_pid[process.pid] = used
    return tuple(
        ProcessUse(pid, used, sm_by_pid if isinstance(sm_by_pid, Missing) else sm_by_pid.get(pid, 0.0))
        for pid, used in sorted(memory_by_pid.items())
    )
