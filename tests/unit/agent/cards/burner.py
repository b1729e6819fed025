"""A process of known size and duty on an NVIDIA card, for `make test-gpu`: `python burner.py MIB DUTY SECONDS`.

It speaks to the driver itself (libcuda), so that nothing needs to be installed. The kernel, in PTX, does nothing but watch the clock;
the driver compiles it for whatever card there is. Prints `ready` once its memory is there, and how much of it the driver says is its own.
"""

import ctypes
import sys
import time
from typing import Final

PERIOD_SECONDS: Final = 0.1
_PTX: Final = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry spin(.param .u64 nanoseconds)
{
  .reg .u64 %rd<4>;
  .reg .pred %p<2>;
  ld.param.u64 %rd1, [nanoseconds];
  mov.u64 %rd2, %globaltimer;
LOOP:
  mov.u64 %rd3, %globaltimer;
  sub.u64 %rd3, %rd3, %rd2;
  setp.lt.u64 %p1, %rd3, %rd1;
  @%p1 bra LOOP;
  ret;
}
"""


class Card:
    """The first card, by the driver's own interface."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
        module, self._spin = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), _PTX + b"\0")
        self._call("cuModuleGetFunction", ctypes.byref(self._spin), module, b"spin")

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code != 0:
            raise SystemExit(f"{name}: CUDA error {code}")

    def allocate(self, mib: int) -> None:
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(mib * 2**20))

    def run(self, seconds: float) -> None:
        """Keep the card busy for so long."""
        nanoseconds = ctypes.c_uint64(int(seconds * 1e9))
        arguments = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(nanoseconds), ctypes.c_void_p))
        self._call("cuLaunchKernel", self._spin, 512, 1, 1, 128, 1, 1, 0, None, arguments, None)
        self._call("cuCtxSynchronize")


def main(mib: int, duty: float, seconds: float) -> None:
    """Hold `mib` MiB and run kernels for `duty` of the time, for so many seconds."""
    card = Card()
    card.allocate(mib)
    card.run(0.01)
    print("ready", flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        card.run(PERIOD_SECONDS * duty)
        time.sleep(max(PERIOD_SECONDS - (time.monotonic() - began), 0.0))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
