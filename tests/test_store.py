"""The run directory: atomic, locked, refused or resumed, and whole on a full or read-only disk."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from hwbench.errors import RunDirectoryError
from hwbench.store import RUN_FILE, SCHEMA_VERSION, TABLE_FILE, RunDirectory
from hwbench.table import SCHEMA, Row, to_frame

RECORD = {"fingerprint": {"model": "a", "seed": 0}, "state": "running"}
SMALL = to_frame([Row("accuracy", "top1", value=0.97)])
LARGE = to_frame([Row("accuracy", os.urandom(40).hex(), value=float(i)) for i in range(4000)])


def files(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def finished(path, record=RECORD, table=SMALL, **how):
    with RunDirectory.create(path, record, **how) as directory:
        directory.write_table(table)
    return RunDirectory.open(path)


# Writing and reading


def test_what_is_written_is_read_again(tmp_path):
    run = finished(tmp_path / "deep" / "run")
    assert run.read() == {"schema_version": SCHEMA_VERSION, **RECORD}
    assert run.table().equals(SMALL)
    assert files(run.path) == [".lock", TABLE_FILE, RUN_FILE]


def test_a_run_exists_before_anything_is_measured(tmp_path):
    with RunDirectory.create(tmp_path / "run", RECORD) as directory:
        assert RunDirectory.open(tmp_path / "run").read()["state"] == "running"
        assert directory.table().equals(pl.DataFrame(schema=SCHEMA))


def test_parts_lie_by_profile(tmp_path):
    with RunDirectory.create(tmp_path / "run", RECORD) as directory:
        directory.write_part("trials", "cpu-int8", SMALL)
        directory.write_part("trials", "cpu-int8", SMALL, part=3)
    folder = tmp_path / "run" / "trials" / "cpu-int8"
    assert files(folder) == ["part-00000.parquet", "part-00003.parquet"]
    assert pl.read_parquet(folder / "*.parquet").height == 2


def test_fault_lists_lie_by_profile(tmp_path):
    with RunDirectory.create(tmp_path / "run", RECORD) as directory:
        directory.write_list("cpu-int8", "worst_case-greedy", pl.DataFrame({"tensor": ["w"], "element": [3]}))
    assert files(tmp_path / "run" / "faults") == ["cpu-int8/worst_case-greedy.csv"]
    assert (tmp_path / "run/faults/cpu-int8/worst_case-greedy.csv").read_text() == "tensor,element\nw,3\n"


def test_compiled_forms_lie_beside_their_build(tmp_path):
    blob = tmp_path / "engine.bin"
    blob.write_bytes(b"compiled")
    with RunDirectory.create(tmp_path / "run", RECORD) as directory:
        directory.keep_compiled("abc", "options", blob)
    assert (tmp_path / "run" / "builds" / "abc" / "compiled" / "options" / "engine.bin").read_bytes() == b"compiled"
    assert files(tmp_path / "run" / "builds") == ["abc/compiled/options/engine.bin"]


def test_what_only_a_resumed_run_needs_is_removed_at_the_end(tmp_path):
    with RunDirectory.create(tmp_path / "run", RECORD) as directory:
        for place in (directory.jobs / "1", directory.data, directory.build_folder("abc")):
            place.mkdir(parents=True)
            (place / "file").touch()
        directory.finish()
        directory.finish()
    assert files(tmp_path / "run") == [".lock", "builds/abc/file", RUN_FILE]


def test_readers_never_see_half_a_file(tmp_path, monkeypatch):
    run = finished(tmp_path / "run")

    def interrupted(partial, content):
        with partial.open("wb") as file:
            file.write(content[: len(content) // 2])
        assert run.table().equals(SMALL)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.write_table(LARGE)
    assert run.table().equals(SMALL)
    assert files(run.path) == [".lock", TABLE_FILE, RUN_FILE]


# What is there already


def test_another_run_is_left_alone(tmp_path):
    finished(tmp_path / "run")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in files(tmp_path / "run")}
    with pytest.raises(RunDirectoryError, match=r"holds a run; use --overwrite .*, --resume"):
        finished(tmp_path / "run", {**RECORD, "seed": 1}, LARGE)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in files(tmp_path / "run")} == before


def test_overwriting_removes_the_run_that_was_there(tmp_path):
    with RunDirectory.create(tmp_path / "run", RECORD) as directory:
        directory.write_part("trials", "cpu-int8", SMALL)
        (directory.path / "link").symlink_to(tmp_path)
        (tmp_path / "outside").touch()
    run = finished(tmp_path / "run", {"state": "new"}, overwrite=True)
    assert files(run.path) == [".lock", TABLE_FILE, RUN_FILE]
    assert run.read()["state"] == "new"
    assert (tmp_path / "outside").exists()


@pytest.mark.parametrize("name", ["draws", "builds/852eb83be4612594", "jobs/5f6eb5da04184e06/stdout.log"])
def test_a_run_with_links_is_not_resumed(tmp_path, name):
    finished(tmp_path / "run")
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunDirectoryError, match=rf"{name}: is a link") as refused:
        finished(tmp_path / "run", resume=True)
    assert "remove it" in str(refused.value)


def test_a_lock_file_that_is_a_link_makes_no_file_elsewhere(tmp_path):
    finished(tmp_path / "run")
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunDirectoryError, match=r"\.lock: is a link"):
        finished(tmp_path / "run", resume=True)
    assert not (tmp_path / "elsewhere").exists()


def test_resuming_keeps_what_is_there(tmp_path):
    finished(tmp_path / "run")
    with RunDirectory.create(tmp_path / "run", {**RECORD, "state": "again"}, resume=True) as directory:
        assert directory.table().equals(SMALL)
        assert directory.read()["state"] == "running"


def test_resuming_nothing_begins(tmp_path):
    assert finished(tmp_path / "run", resume=True).read()["state"] == "running"


def test_another_run_cannot_be_resumed(tmp_path):
    finished(tmp_path / "run")
    other = {"fingerprint": {"model": "b", "seed": 1, "added": True}}
    with pytest.raises(RunDirectoryError, match="cannot be resumed: it was made with another added, model, seed;"):
        finished(tmp_path / "run", other, LARGE, resume=True)
    assert RunDirectory.open(tmp_path / "run").table().equals(SMALL)


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}], ids=str)
def test_a_folder_of_something_else_is_left_alone(tmp_path, how):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunDirectoryError, match="holds other files and no run"):
        finished(tmp_path, **how)
    assert files(tmp_path) == ["thesis.txt"]


@pytest.mark.parametrize("place", ["file", "file/run", "x" * 300])
def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match=r"is a file; name a folder|cannot be written: "):
        finished(tmp_path / place)
    assert files(tmp_path) == ["file"]


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, None, "1"])
def test_a_newer_schema_is_refused(tmp_path, version):
    (tmp_path / RUN_FILE).write_text(json.dumps({"schema_version": version}))
    for use in (lambda: RunDirectory.open(tmp_path), lambda: finished(tmp_path, resume=True)):
        with pytest.raises(RunDirectoryError, match=f"schema version {version}, .* reads up to {SCHEMA_VERSION}"):
            use()


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_a_damaged_record_is_told(tmp_path, content):
    (tmp_path / RUN_FILE).write_text(content)
    with pytest.raises(RunDirectoryError, match=r"run\.json: damaged"):
        RunDirectory.open(tmp_path)


def test_a_damaged_table_is_told(tmp_path):
    run = finished(tmp_path / "run")
    (run.path / TABLE_FILE).write_bytes(b"PAR1 no more")
    with pytest.raises(RunDirectoryError, match=r"measurements\.parquet: damaged"):
        run.table()


def test_a_folder_without_a_run_is_told(tmp_path):
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunDirectoryError, match=r"no run here \(run\.json is missing\)"):
            RunDirectory.open(place)


# Locks

HOLDER = """
import sys
from pathlib import Path
from hwbench.store import RunDirectory
with RunDirectory.create(Path(sys.argv[1]), {"fingerprint": {}, "state": "held"}):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes ``run`` until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)},
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}], ids=str)
def test_one_writes_at_a_time(tmp_path, holder, how):
    with pytest.raises(RunDirectoryError, match="another hwbench is writing here"):
        finished(tmp_path / "run", {"fingerprint": {}}, **how)
    assert RunDirectory.open(tmp_path / "run").read()["state"] == "held"  # reading is free


def test_a_killed_run_leaves_no_lock(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert finished(tmp_path / "run", {"fingerprint": {}}, resume=True).table().equals(SMALL)


def test_a_lock_alone_is_no_other_run(tmp_path):
    (tmp_path / ".lock").touch()
    assert finished(tmp_path).table().equals(SMALL)


# Disks

DISK_KIB = 128  # room for the small table, not for the large one


def mount(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def disk(tmp_path):
    """A file system of `DISK_KIB`."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system takes root")
    made = mount("-t", "tmpfs", "-o", f"size={DISK_KIB}k", "tmpfs", str(place))
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("write", ["record", "table", "part"])
def test_a_full_disk_leaves_what_was_there(disk, write):
    def fill(directory):
        if write == "record":
            directory.write({"state": "x" * 10**6})
        elif write == "table":
            directory.write_table(LARGE)
        else:
            directory.write_part("trials", "cpu-int8", LARGE)

    finished(disk / "run")
    with (
        pytest.raises(RunDirectoryError, match="the disk is full; free some space and go on with --resume"),
        RunDirectory.create(disk / "run", RECORD, resume=True) as directory,
    ):
        fill(directory)
    run = RunDirectory.open(disk / "run")
    assert run.table().equals(SMALL)
    assert files(run.path) == [".lock", TABLE_FILE, RUN_FILE]


def test_a_disk_full_from_the_start(disk):
    (disk / "ballast").write_bytes(bytes((DISK_KIB - 4) * 1024))
    with pytest.raises(RunDirectoryError, match="the disk is full"):
        finished(disk / "run", {"state": "x" * 10**5})
    (disk / "ballast").unlink()
    assert finished(disk / "run").table().equals(SMALL)  # what the first try left behind is in nobody's way


def test_a_read_only_disk_is_told(disk):
    finished(disk / "run")
    assert mount("-o", "remount,ro", str(disk)).returncode == 0
    for place in ("run", "other"):
        with pytest.raises(RunDirectoryError, match="cannot be written: Read-only file system"):
            finished(disk / place, overwrite=True)
    assert RunDirectory.open(disk / "run").table().equals(SMALL)


def test_a_limit_on_file_sizes_is_told(tmp_path):
    run, (soft, hard) = finished(tmp_path / "run"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(RunDirectoryError, match="cannot be written: File too large"):
            finished(run.path, table=LARGE, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.table().equals(SMALL)
    assert files(run.path) == [".lock", TABLE_FILE, RUN_FILE]


def test_what_a_killed_run_was_placing_is_removed(tmp_path):
    run = finished(tmp_path / "run")
    (run.path / "builds" / ".placing-abc").mkdir(parents=True)
    (run.path / "builds" / ".placing-abc" / ".lock").touch()
    finished(tmp_path / "run", resume=True)
    assert not list((run.path / "builds").iterdir())
