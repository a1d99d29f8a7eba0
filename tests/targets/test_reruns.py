"""Workers that die for reasons of their own and of others': real processes, and what counts of their ends."""

from pathlib import Path

import pytest

from hwbench.targets import open_target
from hwbench.worker.protocol import CONTROL, Job, JobResult, Limits


def run(task, folder, variants=(), limits=None, may_time_out=False, control=False, **params) -> JobResult:
    job = Job(
        f"sample_tasks:{task}",
        params,
        variants=variants,
        control=control,
        may_time_out=may_time_out,
        limits=limits or Limits(),
    )
    return open_target("local").run(job, folder)


def workers(folder: Path) -> list[str]:
    return (folder / "workers").read_text().splitlines()


def test_a_variant_whose_workers_were_killed_twice_is_as_if_nothing_had_happened(tmp_path):
    names = ("SIGKILL-0-a", "SIGKILL-2-b", "SIGTERM-1-c", "SIGKILL-0-d")
    result = run("meets_accidents", tmp_path, names)
    assert result.ok
    assert result.is_final
    assert result.failed == {}
    assert result.data == {"restored": True, "variants": {name: {"length": len(name)} for name in names}}
    assert result.deaths == {"SIGKILL-2-b": ["died of SIGKILL"] * 2, "SIGTERM-1-c": ["died of SIGTERM"]}
    assert workers(tmp_path) == [
        " ".join(names),
        *["SIGKILL-2-b"] * 2,
        "SIGTERM-1-c SIGKILL-0-d",
        "SIGTERM-1-c",
        "SIGKILL-0-d",
    ]


def test_a_stored_result_names_the_deaths(tmp_path):
    result = run("meets_accidents", tmp_path, ("SIGKILL-1-a",))
    result.store()
    assert JobResult.load(tmp_path) == result
    assert result.deaths == {"SIGKILL-1-a": ["died of SIGKILL"]}


def test_where_no_disturbance_can_end_a_worker_its_death_is_never_an_outcome(tmp_path):
    result = run("meets_accidents", tmp_path, ("SIGKILL-0-a", "SIGKILL-9-b"))
    assert result.ok
    assert not result.is_final  # a resumed run tries again
    assert (list(result.caused), list(result.unexplained)) == ([], ["SIGKILL-9-b"])
    status, detail = result.failed["SIGKILL-9-b"]
    assert status == "crash"
    assert detail.startswith("died of SIGKILL (3 times); ")
    assert "run again" in detail


def test_a_death_that_recurs_and_spares_the_fault_free_build_is_the_faults_outcome(tmp_path):
    result = run("meets_accidents", tmp_path, ("SIGSEGV-9-a", "SIGSEGV-0-b"), control=True, fate="")
    assert (result.ok, list(result.caused), result.unexplained) == (True, ["SIGSEGV-9-a"], {})
    assert result.is_final
    assert result.failed == {"SIGSEGV-9-a": ("crash", "died of SIGSEGV (3 times)")}
    assert list(result.data["variants"]) == ["SIGSEGV-0-b"]  # the control is none of them
    assert workers(tmp_path)[3:] == [f"{CONTROL}SIGSEGV-9-a", "SIGSEGV-0-b"]


def test_a_job_of_one_deadly_fault_is_carried_out(tmp_path):
    result = run("meets_accidents", tmp_path, ("SIGSEGV-9-a",), control=True, fate="")
    assert (result.ok, list(result.caused), result.data["variants"]) == (True, ["SIGSEGV-9-a"], {})


def test_a_death_that_the_fault_free_build_dies_too_is_an_error(tmp_path):
    result = run("meets_accidents", tmp_path, ("SIGSEGV-9-a", "SIGSEGV-0-b"), control=True, fate="dies")
    assert list(result.caused) == []
    status, detail = result.failed["SIGSEGV-9-a"]
    assert status == "crash"
    assert detail.startswith("died of SIGSEGV (3 times); the fault-free build failed too: died of SIGKILL; ")


@pytest.mark.parametrize(("seconds", "counts"), [(0, True), (2.5, False)])
def test_a_time_out_counts_only_where_the_fault_free_build_is_far_from_one(tmp_path, seconds, counts):
    limits = Limits(timeout_s=6)
    result = run("meets_accidents", tmp_path, ("hang-9-a",), limits, control=True, fate="", seconds=seconds)
    status, detail = result.failed["hang-9-a"]
    assert (status, bool(result.caused)) == ("timeout", counts)
    assert len(workers(tmp_path)) == 3  # two that hung, and the control
    assert detail.startswith("took longer than 6 s (2 times)" + ("" if counts else "; the fault-free build took 2.5"))
    assert ("--timeout" in detail) is not counts


def test_a_time_out_that_does_not_recur_is_none(tmp_path):
    result = run("meets_accidents", tmp_path, ("hang-1-a",), Limits(timeout_s=5), control=True)
    assert (result.ok, result.failed) == (True, {})
    assert result.deaths == {"hang-1-a": ["took longer than 5 s"]}


def test_a_check_that_failed_in_one_worker_is_not_made_good_by_the_next(tmp_path):
    names = ("SIGKILL-0-a", "SIGKILL-1-b", "SIGKILL-0-c")
    assert run("meets_accidents", tmp_path, names, restored=False).data["restored"] is False


def test_no_rerun_outlives_the_jobs_time(tmp_path):
    result = run("meets_accidents", tmp_path, ("SIGKILL-0-a", "SIGKILL-1-b", "hang-1-c"), Limits(stop_s=4))
    assert result.deaths == {"SIGKILL-1-b": ["died of SIGKILL"]}
    assert list(result.unfinished) == ["hang-1-c"]
    assert result.failed == {}


@pytest.mark.parametrize(("how", "count"), [("SIGKILL-2-", 2), ("SIGSEGV-9-", 3)])
def test_a_job_without_variants_runs_again(tmp_path, how, count):
    result = run("meets_accidents_as_a_whole", tmp_path, how=how)
    name = how.partition("-")[0]
    assert result.status == ("ok" if count < 3 else "crash")
    assert result.deaths == {"worker": [f"died of {name}"] * count}
    assert result.detail == ("" if count < 3 else f"died of {name} (3 times)")


def test_a_job_whose_time_out_is_its_result_is_killed_once(tmp_path):
    result = run("meets_accidents_as_a_whole", tmp_path, limits=Limits(timeout_s=2), may_time_out=True, how="hang-1-")
    assert (result.status, result.deaths) == ("timeout", {"worker": ["took longer than 2 s"]})


@pytest.mark.parametrize("variants", [(), ("a",)])
def test_the_time_limit_counts_from_the_last_sign_of_life(tmp_path, variants):
    work = {"steps": 5, "seconds": 1.5}
    assert run("gives_signs_of_life", tmp_path / "a", variants, Limits(timeout_s=6), **work).deaths == {}
    late = run("gives_signs_of_life", tmp_path / "b", variants, Limits(timeout_s=6), True, **work)
    assert late.deaths  # where its length is what the job is about


def test_a_wall_clock_that_is_set_neither_kills_a_worker_nor_lets_it_run_on(tmp_path):
    """The time of the progress file is the wall clock's; here it is set an hour back, and an hour ahead."""
    for name, hours in (("back", -1), ("ahead", 1)):
        folder = tmp_path / name
        folder.mkdir()
        result = run("sets_the_clock", folder, ("fine", "hang"), Limits(timeout_s=5), hours=hours)
        assert list(result.data["variants"]) == ["fine"]
        assert result.failed["hang"][0] == "timeout"
        assert len((folder / "workers").read_text().splitlines()) == 2
    assert (tmp_path / "ahead" / "progress.jsonl").stat().st_mtime > tmp_path.stat().st_mtime
