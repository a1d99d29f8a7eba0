from hwbench.worker.progress import Progress, count_finished
from hwbench.worker.protocol import PROGRESS_FILE, JobContext


def test_progress_survives_a_line_cut_off_by_death(tmp_path):
    context = JobContext(tmp_path, {})
    assert Progress.read(tmp_path) == Progress({}, None)
    context.start("a")
    assert Progress.read(tmp_path).current == "a"
    context.done("a", {"n": 1})
    with (tmp_path / PROGRESS_FILE).open("a") as file:
        file.write('{"done": "b", "da')
    progress = Progress.read(tmp_path)
    assert (progress.finished, progress.current) == ({"a": {"n": 1}}, None)
    assert progress.load_s is not None
    assert progress.seconds["a"] >= 0
    assert count_finished(tmp_path) == 1
    context.start("c")
    progress = Progress.read(tmp_path)
    assert (progress.finished, progress.current) == ({"a": {"n": 1}}, "c")
