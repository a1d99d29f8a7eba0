"""Asks the CUDA driver which GPUs there are, before a library that may crash without one is imported.

`libcuda` is called through ctypes because this must work, and tell why not, where no CUDA package is installed.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from hwbench.errors import UnavailableError

DRIVER_HINT = "install the NVIDIA driver (https://www.nvidia.com/drivers); in a container, start it with --gpus all"
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


@dataclass(frozen=True)
class Device:
    """One GPU.

    Attributes:
        index: Its number among the visible ones.
        name: The product's name.
        capability: Its compute capability, (major, minor).
    """

    index: int
    name: str
    capability: tuple[int, int]

    @property
    def label(self) -> str:
        """What availability, coverage and executed nodes call it."""
        return f"cuda:{self.index}"

    @property
    def isa(self) -> str:
        """The name its machine code goes by, e.g. ``"sm_90"``."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


def find_devices() -> tuple[Device, ...]:
    """Every visible GPU, at least one.

    Raises:
        UnavailableError: There is no driver, or it finds no GPU.
    """
    cuda = _load()
    count = ctypes.c_int()
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise UnavailableError("the NVIDIA driver finds no GPU", "check nvidia-smi and CUDA_VISIBLE_DEVICES")
    return tuple(_describe(cuda, index) for index in range(count.value))


def find_device(index: int) -> Device:
    """The GPU with this index.

    Raises:
        UnavailableError: There is none.
    """
    devices = find_devices()
    if index >= len(devices):
        raise UnavailableError(f"there is no GPU {index}, only {len(devices)}", f"set device_id below {len(devices)}")
    return devices[index]


def driver_version() -> str:
    """The newest CUDA version the driver serves, e.g. ``"13.0"``."""
    version = ctypes.c_int()
    _call(_load(), "cuDriverGetVersion", ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _load() -> ctypes.CDLL:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise UnavailableError(f"there is no NVIDIA driver: {error}", DRIVER_HINT) from error
    _call(cuda, "cuInit", 0)
    return cuda


def _describe(cuda: ctypes.CDLL, index: int) -> Device:
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    _call(cuda, "cuDeviceGet", ctypes.byref(handle), index)
    _call(cuda, "cuDeviceGetName", name, len(name), handle)
    _call(cuda, "cuDeviceGetAttribute", ctypes.byref(major), CAPABILITY_MAJOR, handle)
    _call(cuda, "cuDeviceGetAttribute", ctypes.byref(minor), CAPABILITY_MINOR, handle)
    return Device(index, name.value.decode(), (major.value, minor.value))


def _call(cuda: ctypes.CDLL, function: str, *arguments: object) -> None:
    code = getattr(cuda, function)(*arguments)
    if code:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(code, ctypes.byref(text))
        meaning = text.value.decode() if text.value else "unknown error"
        raise UnavailableError(f"the NVIDIA driver's {function} failed with {code}: {meaning}", DRIVER_HINT)
