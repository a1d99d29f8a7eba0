"""Disturbances of a measurement: what else the machine did while a window of runs was timed.

Linux's own accounts are read, so that a target needs no package for it: ``/proc/stat`` (proc_stat(5)) for the processor time of
all processes and for time that a hypervisor gave to other guests, ``/proc/self/task/*/schedstat`` (the kernel's
Documentation/scheduler/sched-stats.rst) for time in which a runnable thread waited for a processor, ``getrusage`` for
involuntary context switches, and the control group's ``cpu.stat`` for time in which a quota stopped the process.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

# In cpu.stat: microseconds under cgroup v2, nanoseconds under v1.
_THROTTLED = {"throttled_usec": 1e-6, "throttled_time": 1e-9}
# Columns of /proc/stat's first line: user, nice, system, idle, iowait, irq, softirq, steal. Guest time is part of user time.
_BUSY, _STEAL = (0, 1, 2, 5, 6), 7
# Shares of a window above which it counts as disturbed. Processor time is counted in ticks of 10 ms, so that a window of 0.1 s
# cannot show less than a tenth of a core; waiting is counted in nanoseconds.
MAX_OTHERS = 0.25
MAX_STEAL = 0.10
MAX_WAITING = 0.02
MAX_THROTTLED = 0.02


@dataclass(frozen=True)
class Disturbance:
    """Seconds that count up, or their difference over a window; NaN where the machine does not count them.

    Attributes:
        wall_s: Time on the clock.
        own_s: Processor time of this process.
        machine_s: Processor time of all processes.
        steal_s: Time that a hypervisor gave to other guests.
        waiting_s: Time in which a thread of this process was runnable and waited for a processor, added up.
        throttled_s: Time in which a quota stopped this process.
        switches: Involuntary context switches.
    """

    wall_s: float
    own_s: float
    machine_s: float
    steal_s: float
    waiting_s: float
    throttled_s: float
    switches: float

    def __sub__(self, earlier: Disturbance) -> Disturbance:
        return Disturbance(
            **{field.name: getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self)}
        )

    @property
    def others_s(self) -> float:
        """Processor time of other processes."""
        return max(0.0, self.machine_s - self.own_s)

    @property
    def reasons(self) -> list[str]:
        """The causes that exceed their limits; empty for an undisturbed window."""
        shares = {
            "others": (self.others_s, MAX_OTHERS),
            "steal": (self.steal_s, MAX_STEAL),
            # A build with more threads than processors waits for itself; where others ran meanwhile, it waited for them.
            "waiting": (min(self.waiting_s, self.others_s), MAX_WAITING),
            "throttled": (self.throttled_s, MAX_THROTTLED),
        }
        return [name for name, (seconds, limit) in shares.items() if seconds > limit * self.wall_s]

    def record(self) -> dict[str, Any]:
        """The account as JSON, unknown figures as null."""
        account = {**asdict(self), "others_s": self.others_s}
        return {name: None if math.isnan(value) else round(value, 6) for name, value in account.items()}


class Monitor:
    """Reads this machine's accounts."""

    def __init__(self) -> None:
        self._tick = os.sysconf("SC_CLK_TCK")
        self._cpu_stat = next((path for path in cpu_stat_files() if path.is_file()), None)

    def read(self) -> Disturbance:
        """The accounts now."""
        busy, steal = self._machine()
        return Disturbance(
            time.perf_counter(),
            time.process_time(),
            busy,
            steal,
            _waiting(),
            self._throttled(),
            float(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw),
        )

    def _machine(self) -> tuple[float, float]:
        with Path("/proc/stat").open(encoding="utf-8") as file:
            ticks = [int(field) for field in file.readline().split()[1:]]
        return sum(ticks[index] for index in _BUSY) / self._tick, ticks[_STEAL] / self._tick

    def _throttled(self) -> float:
        return throttled(self._cpu_stat) if self._cpu_stat else math.nan


def throttled(cpu_stat: Path) -> float:
    """Seconds in which a quota stopped a control group, by its ``cpu.stat``; NaN where it has no such account."""
    stat = dict(line.split() for line in cpu_stat.read_text(encoding="utf-8").splitlines())
    return next((int(stat[name]) * unit for name, unit in _THROTTLED.items() if name in stat), math.nan)


def cpu_stat_files() -> Iterator[Path]:
    """Possible paths of the processor-time account of this process's control group."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield Path(f"/sys/fs/cgroup{path}/cpu.stat")
        elif "cpu" in controllers.split(","):
            yield from (Path(f"/sys/fs/cgroup/{name}{path}/cpu.stat") for name in (controllers, "cpu"))


def _waiting() -> float:
    waited = []
    for thread in Path("/proc/self/task").iterdir():
        try:
            waited.append(int((thread / "schedstat").read_text().split()[1]))
        except OSError:  # the thread ended, or the kernel keeps no such account
            continue
    return float(np.sum(waited)) * 1e-9 if waited else math.nan
