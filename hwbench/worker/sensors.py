"""What a machine says of itself while it works: frequency, temperatures, who used the processor, who was held back.

psutil and, for NVIDIA GPUs, NVML's binding (nvidia-ml-py) are asked where the target has them; a worker runs without them too,
and what is then unknown is NaN.
"""

from __future__ import annotations

import importlib
import math
import time
from typing import Any

from hwbench.worker.disturbance import cpu_stat_files, throttled

COLUMNS = (
    "own_cpu_s",
    "machine_cpu_s",
    "held_back_s",
    "frequency_mhz",
    "temperature_c",
    "temperature_limit_c",
    "gpu_frequency_mhz",
    "gpu_temperature_c",
)
_IDLE = frozenset({"idle", "iowait", "guest", "guest_nice"})  # guest time is counted in user time already


class Sensors:
    """The sensors of this machine, as far as it has any."""

    def __init__(self) -> None:
        self._psutil = _module("psutil")
        self._gpus, self._nvml = _gpus()
        self._cpu_stat = next((path for path in cpu_stat_files() if path.is_file()), None)

    def read(self) -> list[float]:
        """The state now, in the order of `COLUMNS`; processor and held-back time count up from some moment."""
        temperature, limit = self._temperature()
        return [
            time.process_time(),
            self._machine(),
            self._held_back(),
            self._frequency(),
            temperature,
            limit,
            max(
                (self._nvml.nvmlDeviceGetClockInfo(gpu, self._nvml.NVML_CLOCK_SM) for gpu in self._gpus),
                default=math.nan,
            ),
            max(
                (self._nvml.nvmlDeviceGetTemperature(gpu, self._nvml.NVML_TEMPERATURE_GPU) for gpu in self._gpus),
                default=math.nan,
            ),
        ]

    def _machine(self) -> float:
        """Processor time that was used, or that a hypervisor gave to others, on all cores."""
        if self._psutil is None:
            return math.nan
        times = self._psutil.cpu_times()._asdict()
        return float(sum(value for name, value in times.items() if name not in _IDLE))

    def _frequency(self) -> float:
        now = self._psutil.cpu_freq() if self._psutil is not None else None
        return float(now.current) if now is not None else math.nan

    def _temperature(self) -> tuple[float, float]:
        """The hottest sensor in °C, and the temperature from which its machine calls itself too hot."""
        if self._psutil is None:
            return math.nan, math.nan
        found = [one for group in self._psutil.sensors_temperatures().values() for one in group if one.current]
        if not found:
            return math.nan, math.nan
        hottest = max(found, key=lambda one: one.current)
        return float(hottest.current), float(hottest.high or hottest.critical or math.nan)

    def _held_back(self) -> float:
        return throttled(self._cpu_stat) if self._cpu_stat else math.nan


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:  # the target does without it
        return None


def _gpus() -> tuple[list[Any], Any]:
    """NVIDIA GPUs, and the module that asks them."""
    nvml = _module("pynvml")
    if nvml is None:
        return [], None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver, so no GPU
        return [], nvml
    return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())], nvml
