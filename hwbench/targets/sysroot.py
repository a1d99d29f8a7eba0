"""System roots: Debian packages and wheels of another instruction set, unpacked where QEMU finds them.

Debian's packages are those of the release named here, checked against apt's signed index; wheels are pinned to a version and
a checksum. A root is made in a folder of its own, tried, and renamed into place.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from urllib.parse import unquote

from hwbench.errors import UnavailableError, UnknownNameError
from hwbench.host import cache_home
from hwbench.scratch import scratch_folder, sweep
from hwbench.targets.qemu import find_qemu

MANIFEST = "system-root.json"
PACKAGES_FOLDER = "site-packages"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DOWNLOAD_S, _TRIAL_S = 1800.0, 300.0


@dataclass(frozen=True)
class Pins:
    """What a system root is made of.

    Attributes:
        architecture: Debian's name of the instruction set.
        release: The Debian release whose packages these are.
        python: The interpreter, below the root.
        debian: Names of Debian packages.
        wheels: Package to (version, SHA-256 of its wheel).
        platforms: The wheels' platform tags.
        imports: What must be importable in the finished root.
    """

    architecture: str
    release: str
    python: str
    debian: tuple[str, ...]
    wheels: Mapping[str, tuple[str, str]]
    platforms: tuple[str, ...]
    imports: tuple[str, ...]

    @property
    def key(self) -> str:
        """A name for this set."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


PINS: dict[str, Pins] = {
    "aarch64": Pins(
        architecture="arm64",
        release="bookworm",
        python="usr/bin/python3.11",
        debian=(
            "libc6", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "python3.11", "libexpat1",
            "zlib1g", "libssl3", "libffi8", "libgcc-s1", "libstdc++6", "liblzma5", "libbz2-1.0", "libsqlite3-0",
            "libuuid1", "libncursesw6", "libtinfo6", "libreadline8", "libdb5.3", "libnsl2", "libtirpc3", "libcrypt1",
        ),
        wheels={
            "numpy": ("2.4.6", "0ab0a9c4ffb1a6d95ef519fe4247dba8eb6b18ad93999f76b7f657039acabd47"),
            "onnx": ("1.23.2", "83b3fc8321303c9da62824730457ba2f7ae0970f0e2f7fc0117912df7f8a4826"),
            "ml-dtypes": ("0.6.0", "7728c0420ec1c338564fc8b01015ff2d58567e70f17fedce5a0a7c0308c0d5b9"),
            "protobuf": ("7.36.2", "e11e1f0180583a2af89db6a2ecd9e8dc40aa6d2988ca175bfd0e6d12ea72d74e"),
            "typing-extensions": ("4.16.0", "481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8"),
            # The newest that runs on QEMU's Arm cores: 1.31 and 1.32 crash at import.
            "onnxruntime": ("1.26.0", "35c7c7b0ac2e02001d28fab6c9fc24e9abc5e6faa35e6e19c63cecf1406ba89f"),
        },
        platforms=("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64"),
        imports=("onnxruntime", "onnx", "ctypes", "json"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class SystemRoot:
    """An installed system root.

    Attributes:
        path: The folder.
        python: Its interpreter.
        packages: The folder its wheels are unpacked in.
        versions: Debian package or wheel to version.
    """

    path: Path
    python: Path
    packages: Path
    versions: Mapping[str, str]


def system_root(arch: str) -> SystemRoot:
    """The installed system root of one instruction set.

    Raises:
        UnavailableError: There is none, with the command that installs it.
    """
    if arch not in PINS:
        raise UnavailableError(f"there is no system root of {arch} to run a Python of that instruction set in")
    pins, path = PINS[arch], _place(arch, PINS[arch])
    if not (path / MANIFEST).is_file():
        raise UnavailableError(f"the system root of {arch} is not installed", f"hwbench targets install {arch}")
    versions = json.loads((path / MANIFEST).read_text())["versions"]
    return SystemRoot(path, path / pins.python, path / PACKAGES_FOLDER, versions)


def install(
    arch: str, tell: Callable[[str], None], *, mirror: str = "", keyring: Path = KEYRING, pins: Pins | None = None
) -> Path:
    """Download, check, unpack and try a system root; what an earlier attempt downloaded is used again.

    Args:
        arch: The instruction set.
        tell: Told each step.
        mirror: Address of a Debian mirror; default: this machine's own apt sources.
        keyring: The keys that sign the mirror's release.
        pins: What it is made of; default: what this version of hwbench was tried with.

    Returns:
        The root's folder.

    Raises:
        UnknownNameError: No root is known for ``arch``.
        UnavailableError: A tool is missing, a download fails or does not match its checksum, or the root does not work.
    """
    pins = pins or _pins(arch)
    place = _place(arch, pins)
    with _lock(arch):
        if (place / MANIFEST).is_file():
            tell(f"{place}: installed already")
            return place
        find_qemu("aarch64" if arch == "aarch64" else "x86_64")
        downloads = place.parent / f"downloads-{place.name}"
        downloads.mkdir(parents=True, exist_ok=True)
        sweep(place.parent, ".making-")
        with scratch_folder(place.parent, ".making-") as work:
            apt = _Apt(work, pins, mirror, keyring)
            debian = apt.download(downloads, tell)
            requirements = _download_wheels(pins, downloads, work, tell)
            root = work / "root"
            root.mkdir()
            tell("unpacking")
            for package in debian:
                _call("dpkg-deb", "-x", str(downloads / package), str(root))
            _pip(
                "install",
                pins,
                requirements,
                "--no-index",
                "--find-links",
                downloads,
                "--target",
                root / PACKAGES_FOLDER,
            )
            tell("trying it")
            _try(arch, root, pins)
            versions = {_debian_name(file): _debian_version(file) for file in debian}
            versions |= {name: version for name, (version, _) in pins.wheels.items()}
            manifest = {"schema_version": 1, "arch": arch, "release": pins.release, "versions": versions}
            (root / MANIFEST).write_text(json.dumps(manifest, indent=2))
            root.rename(place)
        shutil.rmtree(downloads)
    tell(f"{place}: installed")
    return place


def remove(arch: str) -> list[Path]:
    """Remove every system root of one instruction set and what was downloaded for them.

    Returns:
        The folders that were there.

    Raises:
        UnknownNameError: No root is known for ``arch``.
    """
    _pins(arch)
    with _lock(arch):
        found = sorted(path for path in _home().glob(f"*{arch}-*") if path.is_dir())
        for path in found:
            (path / MANIFEST).unlink(missing_ok=True)  # first: what is left of a removal cut short counts as nothing
            shutil.rmtree(path)
    return found


class _Apt:
    """apt-get for another architecture, with lists and cache in a folder of its own, so that it needs no rights."""

    def __init__(self, work: Path, pins: Pins, mirror: str, keyring: Path) -> None:
        self._names = pins.debian
        self._release = pins.release
        state = work / "apt"
        (state / "lists" / "partial").mkdir(parents=True)
        (state / "cache" / "archives" / "partial").mkdir(parents=True)
        settings = {
            "APT::Architecture": pins.architecture,
            "APT::Architectures": pins.architecture,
            # Its own user could not write into this user's cache.
            "APT::Sandbox::User": "root",
            "Dir::State::Lists": str(state / "lists"),
            "Dir::Cache": str(state / "cache"),
        }
        if mirror:
            (state / "sources.list").write_text(f"deb [signed-by={keyring}] {mirror} {pins.release} main\n")
            settings |= {"Dir::Etc::SourceList": str(state / "sources.list"), "Dir::Etc::SourceParts": "/dev/null"}
        self._command = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in settings.items())]

    def download(self, folder: Path, tell: Callable[[str], None]) -> list[str]:
        """Download every package that is not in ``folder`` already, whole; returns the files' names."""
        tell("reading Debian's package lists")
        _call(*self._command, "update")
        listed = _call(*self._command, "--print-uris", "download", *self._names, hint=self._hint)
        wanted = dict(re.findall(r"^'\S+' (\S+) \d+ SHA256:([0-9a-f]{64})$", listed, re.MULTILINE))
        if len(wanted) != len(self._names):
            raise UnavailableError(f"apt names {len(wanted)} checksums for {len(self._names)} packages")
        missing = [file for file in wanted if not _matches(folder / file, wanted[file])]
        if missing:
            tell(f"downloading {len(missing)} Debian packages")
            names = [f"{_debian_name(file)}={_debian_version(file)}" for file in missing]
            _call(*self._command, "download", *names, cwd=folder, timeout=_DOWNLOAD_S)
        for file in missing:
            if not _matches(folder / file, wanted[file]):
                raise UnavailableError(f"{folder / file}: not the file that Debian's signed index names; try again")
        return list(wanted)

    @property
    def _hint(self) -> str:
        return f"name a mirror of Debian {self._release} with --mirror URL"


def _download_wheels(pins: Pins, folder: Path, work: Path, tell: Callable[[str], None]) -> Path:
    """Download the wheels that are not in ``folder`` already; returns pip's file of requirements with checksums."""
    requirements = work / "requirements.txt"
    requirements.write_text(
        "".join(f"{name}=={version} --hash=sha256:{digest}\n" for name, (version, digest) in pins.wheels.items())
    )
    tell(f"downloading {len(pins.wheels)} wheels")
    _pip("download", pins, requirements, "--dest", folder)
    return requirements


def _pip(command: str, pins: Pins, requirements: Path, *arguments: object) -> None:
    if PathFinder.find_spec("pip") is None:  # setuptools' own finder warns about distutils here
        raise UnavailableError(
            "installing a system root needs pip in this environment", f"{sys.executable} -m ensurepip"
        )
    version = pins.python.rpartition("python")[2]
    tags = [option for tag in pins.platforms for option in ("--platform", tag)]
    _call(
        *(sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"),
        *("--python-version", version, "--implementation", "cp", *tags, "--requirement", str(requirements)),
        *(str(argument) for argument in arguments),
        timeout=_DOWNLOAD_S,
        name=f"pip {command}",
    )


def _try(arch: str, root: Path, pins: Pins) -> None:
    """Import the runtime once in the new root; this also leaves the compiled modules that later workers load."""
    qemu = find_qemu("aarch64" if arch == "aarch64" else "x86_64")
    command = [qemu.path, "-L", str(root), str(root / pins.python), "-c", f"import {', '.join(pins.imports)}"]
    environment = {"PYTHONPATH": str(root / PACKAGES_FOLDER), "PYTHONNOUSERSITE": "1", "ORT_DISABLE_TELEMETRY": "1"}
    _call(*command, timeout=_TRIAL_S, env=environment)


def _call(
    *command: str,
    cwd: Path | None = None,
    timeout: float = 300.0,
    env: Mapping[str, str] | None = None,
    name: str = "",
    hint: str = "",
) -> str:
    """Run a tool and return what it printed; its last words become the reason where it fails."""
    name = name or Path(command[0]).name
    try:
        ended = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            timeout=timeout,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise UnavailableError(
            f"installing a system root needs {name}", "install it on Debian or a system derived from it"
        ) from None
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{name} took longer than {timeout:g} s; try again") from None
    if ended.returncode:
        said = (ended.stderr or ended.stdout).strip().splitlines()
        raise UnavailableError(f"{name} failed: {' '.join(said[-3:])[:500]}", hint)
    return ended.stdout


def _matches(file: Path, sha256: str) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256


def _debian_name(file: str) -> str:
    return file.split("_")[0]


def _debian_version(file: str) -> str:
    return unquote(file.split("_")[1])


def _pins(arch: str) -> Pins:
    if arch not in PINS:
        raise UnknownNameError("system root", arch, PINS)
    return PINS[arch]


def _home() -> Path:
    return cache_home() / "targets"


def _place(arch: str, pins: Pins) -> Path:
    return _home() / f"{arch}-{pins.key}"


@contextmanager
def _lock(arch: str) -> Iterator[None]:
    """Held while a root is made or removed: a second process waits, and then finds it done."""
    _home().mkdir(parents=True, exist_ok=True)
    with (_home() / f"{arch}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
