"""Confinement of a worker by the kernel: Landlock for files, TCP and signals, seccomp for sockets. Standard library only.

``python -m hwbench.worker.sandbox FOLDER [PARENT]`` enters the sandbox that the job file in FOLDER describes and does the job;
``... FOLDER --exec COMMAND`` executes a command instead: QEMU's user mode passes none of these system calls on.

The calls are made through ctypes: a worker has the standard library, numpy, onnx and one runtime, and the package ``landlock``
knows neither the rules for TCP nor those for signals. Sources: Linux, Documentation/userspace-api/landlock.rst, seccomp(2).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import stat
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hwbench.worker.cap import CAP_VARIABLE, cap_files

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_QUERY_VERSION = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38
_CAPABILITIES_3 = 0x20080522
# Capabilities that root keeps: to read files of others, and to lock memory, as drivers do.
_KEPT = 1 << 1 | 1 << 2 | 1 << 14  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_IPC_LOCK

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_DIR, _MAKE_REG, _REFER, _TRUNCATE, _IOCTL_DEV = 1 << 7, 1 << 8, 1 << 13, 1 << 14, 1 << 15
_READ, _WRITE = _READ_FILE | _READ_DIR, _WRITE_FILE | _TRUNCATE
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV  # all rights that a rule on a file may have
# Rights on files, by the first version of the kernel's interface that has them.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
_TCP = {4: 0b11}  # bind and connect
_SCOPES = {6: 0b11}  # abstract unix sockets and signals

# Rights that each list of a job's rules grants. No links, pipes or sockets: the parent opens files in the job's folder.
_GRANTS = {
    "run": _READ | _EXECUTE,
    "read": _READ,
    "update": _READ | _WRITE | _IOCTL_DEV,
    "own": _READ | _WRITE | _MAKE_DIR | _MAKE_REG | _REMOVE_DIR | _REMOVE_FILE | _REFER,
}


@dataclass(frozen=True)
class _Numbers:
    """System call numbers of one architecture, and its name in a seccomp filter."""

    audit: int
    seccomp: int
    socket: int


_ARCHITECTURES = {
    "x86_64": _Numbers(0xC000003E, 317, 41),
    "aarch64": _Numbers(0xC00000B7, 277, 198),
    "riscv64": _Numbers(0xC00000F3, 277, 198),
}
_IO_URING_SETUP = 425  # it makes sockets too
_X32 = 0x40000000  # the other numbers of x86-64's system calls
_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2
_SPEC_ALLOW = 1 << 2  # or older kernels slow the process down by their mitigation of speculative store bypass
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EACCES
_LOAD, _IF_EQUAL, _IF_ABOVE, _RETURN = 0x20, 0x15, 0x35, 0x06


@dataclass(frozen=True)
class Support:
    """Confinement that the kernel offers to an ordinary user.

    Attributes:
        abi: Version of Landlock's interface; 0 without it.
        reason: Why there is no Landlock; empty if there is.
        sockets: True if seccomp can refuse sockets.
    """

    abi: int
    reason: str
    sockets: bool

    def __str__(self) -> str:
        kinds = {1: "files", 4: "TCP", 6: "signals"}
        landlock = f"Landlock ABI {self.abi} ({', '.join(kinds[abi] for abi in kinds if abi <= self.abi)})"
        parts = [landlock] if self.abi else []
        parts += ["seccomp (sockets)"] if self.sockets else []
        return ", ".join(parts) + (f"{'; ' if parts else 'none: '}{self.reason}" if self.reason else "")


def support() -> Support:
    """Query the kernel; this restricts nothing."""
    libc = _libc()
    abi = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_QUERY_VERSION))
    reason = ""
    if abi < 0:
        switched_off = ctypes.get_errno() == errno.EOPNOTSUPP
        reason = "Landlock is switched off in this kernel" if switched_off else "this kernel has no Landlock"
    numbers, action = _numbers(), ctypes.c_uint32(_REFUSE & 0xFFFF0000)
    refuses = numbers and not libc.syscall(numbers.seccomp, _GET_ACTION_AVAIL, 0, ctypes.byref(action))
    return Support(max(abi, 0), reason, bool(refuses))


def enter(rules: dict[str, list[str]]) -> None:
    """Confine this process, which must have one thread, and all that it starts.

    Args:
        rules: Paths by the access allowed to them and to all beneath them: ``run`` (read and execute), ``read``,
            ``update`` (read and write, make nothing; devices), ``own`` (read and write, make and remove). A path that does not
            exist is left out.

    Raises:
        OSError: The kernel refuses what it said it supports.
    """
    found, numbers = support(), _numbers()
    if found.abi or found.sockets:
        _call(_libc().prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        _drop_capabilities()
    if found.abi:
        _restrict(found.abi, rules)
    if found.sockets and numbers is not None:
        _refuse_sockets(numbers)


def _drop_capabilities() -> None:
    """Drop root's capabilities except those to read files: rules on files do not prevent loading kernel modules."""
    header, sets = struct.pack("=Ii", _CAPABILITIES_3, 0), ctypes.create_string_buffer(24)
    _call(_libc().capget(header, sets), "to name the capabilities")
    effective, permitted, *_ = struct.unpack("=6I", sets.raw)
    fewer = struct.pack("=6I", effective & _KEPT, permitted & _KEPT, 0, 0, 0, 0)
    _call(_libc().capset(header, fewer), "fewer capabilities")


def _restrict(abi: int, rules: dict[str, list[str]]) -> None:
    handled, tcp, scopes = (_known(abi, rights) for rights in (_FILE_RIGHTS, _TCP, _SCOPES))
    attributes = struct.pack("=QQQ", handled, tcp, scopes)
    libc = _libc()
    ruleset = _call(libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "a ruleset")
    for descriptor, access in _opened(rules):
        rule = struct.pack("=Qi", access & handled, descriptor)
        _call(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0), "a rule")
        os.close(descriptor)
    _call(libc.syscall(_RESTRICT_SELF, ruleset, 0), "the ruleset")
    os.close(ruleset)


def _opened(rules: dict[str, list[str]]) -> Iterator[tuple[int, int]]:
    """A descriptor and the rights for every path that exists."""
    for grant, paths in rules.items():
        for path in paths:
            try:
                descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:  # what cannot be reached needs no right
                continue
            is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            yield descriptor, _GRANTS[grant] if is_folder else _GRANTS[grant] & _OF_FILES


def _refuse_sockets(numbers: _Numbers) -> None:
    """Make ``socket`` fail with EACCES, whatever its kind, in this process and its children; ``socketpair`` works."""
    program = [
        (_LOAD, 0, 0, 4),  # the architecture; another one has other numbers
        (_IF_EQUAL, 0, 5, numbers.audit),
        (_LOAD, 0, 0, 0),  # the system call
        (_IF_ABOVE, 3, 0, _X32),
        (_IF_EQUAL, 2, 0, numbers.socket),
        (_IF_EQUAL, 1, 0, _IO_URING_SETUP),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    filter_ = struct.pack("@HP", len(program), ctypes.addressof(code))
    _call(_libc().syscall(numbers.seccomp, _SET_MODE_FILTER, _SPEC_ALLOW, filter_), "a filter of system calls")


def _known(abi: int, rights: dict[int, int]) -> int:
    return sum(bits for since, bits in rights.items() if since <= abi)


def _numbers() -> _Numbers | None:
    return _ARCHITECTURES.get(platform.machine()) if sys.maxsize > 1 << 32 else None


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _call(returned: int, subject: str) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the worker's sandbox: the kernel refuses {subject}: {os.strerror(number)}")
    return returned


def main(arguments: list[str]) -> int:
    """Enter the sandbox, then do the job or execute a command that does it.

    Args:
        arguments: The job's folder; then the parent's process id, or ``--exec`` and a command.
    """
    rules = json.loads((Path(arguments[0]) / "job.json").read_text())["sandbox"]
    if rules is not None:
        rules["update"] += map(str, cap_files() if CAP_VARIABLE in os.environ else ())
        enter(rules)
    if arguments[1:2] == ["--exec"]:
        os.execv(arguments[2], arguments[2:])  # noqa: S606  no shell
    # Imported only here: numpy starts threads when imported, and a sandbox entered later would not confine them.
    from hwbench.worker.__main__ import main as work

    return work(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
