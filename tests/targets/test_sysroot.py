from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hwbench.errors import UnavailableError, UnknownNameError
from hwbench.targets import sysroot
from hwbench.targets.sysroot import PINS, Pins, install, remove, system_root

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
TOOLS = ("apt-get", "dpkg-deb", "gcc", "gpg")

pytestmark = pytest.mark.skipif(
    platform.machine() not in ARCH
    or not all(map(shutil.which, TOOLS))
    or not shutil.which(f"qemu-{platform.machine()}-static"),
    reason=f"makes a small Debian mirror, with {', '.join(TOOLS)} and qemu-user-static",
)


@dataclass(frozen=True)
class Mirror:
    """A signed Debian mirror of one package, and a folder with one wheel."""

    folder: Path
    keyring: Path
    pins: Pins

    @property
    def package(self) -> Path:
        (file,) = (self.folder / "pool").iterdir()
        return file

    def install(self, **changes) -> Path:
        arguments = {"mirror": f"file://{self.folder}", "keyring": self.keyring, "pins": self.pins, **changes}
        return install(platform.machine(), self.told.append, **arguments)

    @property
    def told(self) -> list[str]:
        return TOLD


TOLD: list[str] = []


def call(*command: object, **options) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, **options).stdout


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def make_package(folder: Path, pool: Path) -> Path:
    """A Debian package whose interpreter is a program that succeeds at once."""
    (folder / "DEBIAN").mkdir(parents=True)
    (folder / "usr" / "bin").mkdir(parents=True)
    architecture = ARCH[platform.machine()]
    (folder / "DEBIAN" / "control").write_text(
        f"Package: tiny\nVersion: 1:2.0+b1\nArchitecture: {architecture}\nMaintainer: Nobody <nobody@example.org>\n"
        "Description: tests\n"
    )
    (folder.parent / "main.c").write_text("int main(void) { return 0; }")
    call("gcc", "-static", "-o", folder / "usr" / "bin" / "python3.11", folder.parent / "main.c")
    pool.mkdir(parents=True)
    call("dpkg-deb", "--root-owner-group", "--build", folder, pool / f"tiny_2.0+b1_{architecture}.deb")
    return pool / f"tiny_2.0+b1_{architecture}.deb"


def make_wheel(folder: Path) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / "smallest-1.0-py3-none-any.whl", "w") as file:
        file.writestr("smallest.py", "answer = 42\n")
        file.writestr("smallest-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: smallest\nVersion: 1.0\n")
        file.writestr(
            "smallest-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr("smallest-1.0.dist-info/RECORD", "smallest.py,,\n")
    return folder / "smallest-1.0-py3-none-any.whl"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Mirror:
    folder = tmp_path_factory.mktemp("mirror")
    architecture = ARCH[platform.machine()]
    package = make_package(folder / "tree", folder / "debian" / "pool")
    index = folder / "debian" / "dists" / "tests" / "main" / f"binary-{architecture}" / "Packages"
    index.parent.mkdir(parents=True)
    control = call("dpkg-deb", "--field", package)
    index.write_text(
        f"{control}Filename: pool/{package.name}\nSize: {package.stat().st_size}\nSHA256: {sha256(package)}\n\n"
    )
    release = index.parents[2] / "Release"
    release.write_text(
        f"Suite: tests\nCodename: tests\nArchitectures: {architecture}\nComponents: main\n"
        "Date: Sat, 01 Nov 2025 00:00:00 UTC\nSHA256:\n"
        f" {sha256(index)} {index.stat().st_size} main/binary-{architecture}/Packages\n"
    )
    # A socket's path is short, which one below pytest's folders may not be.
    home = Path(call("mktemp", "--directory").strip())
    keys = {**os.environ, "GNUPGHOME": str(home)}
    call("gpg", "--batch", "--passphrase", "", "--quick-generate-key", "tests", "default", "sign", env=keys)
    call("gpg", "--batch", "--output", folder / "keyring.gpg", "--export", env=keys)
    call("gpg", "--batch", "--output", release.with_name("InRelease"), "--clearsign", release, env=keys)
    subprocess.run(["gpgconf", "--kill", "all"], env=keys, check=False)
    shutil.rmtree(home)
    wheel = make_wheel(folder / "wheels")
    pins = Pins(
        architecture=architecture,
        release="tests",
        python="usr/bin/python3.11",
        debian=("tiny",),
        wheels={"smallest": ("1.0", sha256(wheel))},
        platforms=("any",),
        imports=("smallest",),
    )
    return Mirror(folder / "debian", folder / "keyring.gpg", pins)


@pytest.fixture
def mirror(made, tmp_path, monkeypatch) -> Mirror:
    """A copy of the mirror, and an empty cache."""
    monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.folder.parent / "wheels"))
    monkeypatch.setitem(PINS, platform.machine(), made.pins)
    TOLD.clear()
    return replace(made, folder=Path(shutil.copytree(made.folder, tmp_path / "debian")))


def leftovers(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "targets").iterdir() if path.is_dir())


def test_installed_once_found_and_removed(mirror, tmp_path):
    with pytest.raises(UnavailableError, match=f"hwbench targets install {platform.machine()}"):
        system_root(platform.machine())
    place = mirror.install()
    root = system_root(platform.machine())
    assert root.path == place
    assert root.versions == {"tiny": "1:2.0+b1", "smallest": "1.0"}
    assert call(root.python) == ""
    assert (root.packages / "smallest.py").read_text() == "answer = 42\n"
    assert leftovers(tmp_path) == [place.name]
    assert mirror.install() == place
    assert TOLD[-1] == f"{place}: installed already"
    assert remove(platform.machine()) == [place]
    assert leftovers(tmp_path) == []
    assert remove(platform.machine()) == []


def test_what_was_downloaded_is_used_again(mirror):
    wrong = replace(mirror.pins, wheels={"smallest": ("1.0", "0" * 64)})
    with pytest.raises(UnavailableError, match="pip download failed"):
        mirror.install(pins=wrong)
    mirror.package.unlink()
    with pytest.raises(UnavailableError, match="pip download failed"):
        mirror.install(pins=wrong)
    assert [text for text in TOLD if "Debian packages" in text] == ["downloading 1 Debian packages"]


def test_a_half_done_download_is_done_again(mirror, tmp_path):
    place = sysroot._place(platform.machine(), mirror.pins)
    downloads = place.with_name(f"downloads-{place.name}")
    downloads.mkdir(parents=True)
    name = mirror.package.name.replace("tiny_", "tiny_1%3a")
    (downloads / name).write_bytes(mirror.package.read_bytes()[:1000])
    assert mirror.install() == place
    assert leftovers(tmp_path) == [place.name]


def test_a_package_that_is_not_the_one_signed_is_refused(mirror, tmp_path):
    content = bytearray(mirror.package.read_bytes())
    content[-1] ^= 1
    mirror.package.write_bytes(bytes(content))
    with pytest.raises(UnavailableError, match=r"apt-get failed|not the file that Debian's signed index names"):
        mirror.install()
    assert not any(name.startswith(platform.machine()) for name in leftovers(tmp_path))


def test_a_mirror_that_nobody_signed_for_is_refused(mirror, tmp_path):
    (tmp_path / "empty.gpg").write_bytes(b"")
    with pytest.raises(UnavailableError, match="apt-get failed"):
        mirror.install(keyring=tmp_path / "empty.gpg")


def test_unknown_packages_ask_for_a_mirror(mirror):
    with pytest.raises(UnavailableError, match=r"name a mirror of Debian tests with --mirror URL"):
        mirror.install(pins=replace(mirror.pins, debian=("tiny", "missing")))


def test_no_root_is_known_for_other_instruction_sets():
    with pytest.raises(UnknownNameError, match=r"unknown system root 'mips'\. Known: aarch64"):
        install("mips", TOLD.append)
    with pytest.raises(UnknownNameError):
        remove("mips")
