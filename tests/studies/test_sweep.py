from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwbench.metrics import MAE, R2, RMSE
from hwbench.npy import content_hash
from hwbench.studies.sweep import Drawn, Golden, Sweep, figure, finite_rows, gather, loss, own_golden, rate
from hwbench.worker.inputs import chosen_inputs

# The five best classes of the five inputs, best first; labels are 0 1 2 0 1.
GOLDEN = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]], np.int32)
NO_OUTPUT = np.full_like(GOLDEN, -1)


def collected(case, result, names, golden=None) -> tuple[Sweep, Golden]:
    """A sweep whose draws ran on all inputs, and the golden outputs stored beside it."""
    if golden is None:
        outputs = np.load(result.folder / "stored-golden.npy")
        labels = None if case.data.labels is None else case.data.labels_array()
        values = None
        if labels is not None:
            score = case.primary.from_topk if case.classifies else case.primary.per_sample
            values = score(outputs, labels)
        golden = Golden(outputs, values)
    drawn = [Drawn(number, result, name, None) for number, name in enumerate(names)]
    return gather(case, drawn, golden), golden


def with_best(*best: int) -> np.ndarray:
    return np.array([[one, *(other for other in range(3) if other != one)] for one in best], np.int32)


def test_each_input_of_each_draw_is_changed_due_or_masked(make_case, make_result):
    half = with_best(0, 1, 2, 1, 0)
    half[0] = -1
    result = make_result({"golden": GOLDEN, "a": half, "b": GOLDEN}, faults={"a": 3})
    sweep, _golden = collected(make_case(), result, ["a", "b"])
    assert sweep.matrix(sweep.changed).tolist() == [[False, False, False, False, True], [False] * 5]
    assert sweep.matrix(sweep.due).tolist() == [[True, False, False, False, False], [False] * 5]
    assert sweep.matrix(sweep.values).tolist() == [[0, 1, 1, 0, 0], [1, 1, 1, 0, 1]]
    assert sweep.n_faults == [3, 0]


def test_a_refused_build_and_a_dead_worker_are_due_on_every_input(make_case, make_result):
    result = make_result(
        {"golden": GOLDEN, "refused": None},
        faults={"refused": 7},
        failed={"died": ("crash", "died of SIGSEGV")},
        caused=["died"],
    )
    sweep, _golden = collected(make_case(), result, ["refused", "died"])
    assert sweep.due.all()
    assert not sweep.changed.any()
    assert not sweep.values.any()
    assert sweep.n_faults == [7, None]  # how many it had died with it


def test_without_labels_only_outcomes_are_known(make_case, make_result):
    case = make_case(labels=None)
    sweep, golden = collected(case, make_result({"golden": GOLDEN, "a": NO_OUTPUT}), ["a"])
    assert sweep.values is None
    assert sweep.due.all()
    with pytest.raises(ValueError, match="accuracy needs labels"):
        figure(case, sweep, golden)


def test_loss_and_figure_are_means_over_draws_and_inputs(make_case, make_result):
    case = make_case()
    result = make_result({"golden": GOLDEN, "a": with_best(0, 1, 0, 1, 1), "b": NO_OUTPUT})
    sweep, golden = collected(case, result, ["a", "b"])
    assert figure(case, sweep, golden).value == pytest.approx((3 + 0) / 10)
    assert loss(case, sweep, golden).value == pytest.approx((1 + 4) / 10)
    assert rate(case, sweep, sweep.due).value == pytest.approx(5 / 10)
    assert rate(case, sweep, sweep.changed).value == pytest.approx(1 / 10)
    assert figure(case, sweep, golden).n == 10


def test_an_error_grows_by_what_the_faulty_build_does_worse(make_case, make_result):
    labels = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    case = make_case(labels=labels, task="regression")
    off = {"a": labels + np.array([1, -1, 1, -1, 1]), "b": labels + np.array([3, 3, -3, 3, 3])}
    result = make_result({"golden": labels, **off})
    sweep, golden = collected(case, result, ["a", "b"])
    assert sweep.changed is None
    root_mean_square = np.sqrt((1 + 9) / 2)
    assert figure(case, sweep, golden).value == pytest.approx(root_mean_square)
    lost = loss(case, sweep, replace(golden, values=np.full(5, 0.25)))
    assert lost.value == pytest.approx(root_mean_square - 0.5)
    assert lost.low <= lost.value <= lost.high


def test_an_error_without_an_output_is_unbounded(make_case, make_result):
    labels = np.arange(5.0)
    case = make_case(labels=labels, task="regression")
    result = make_result({"golden": labels, "refused": None, "nan": labels * np.nan})
    sweep, golden = collected(case, result, ["refused", "nan"])
    assert sweep.due.all()
    assert figure(case, sweep, golden).value == np.inf
    assert loss(case, sweep, golden).high == np.inf


def test_a_cosine_without_an_output_is_zero(make_case, make_result):
    labels = np.ones((5, 3))
    case = make_case(labels=labels, task="embedding")
    sweep, golden = collected(case, make_result({"golden": labels, "refused": None}), ["refused"])
    assert figure(case, sweep, golden).value == 0


@pytest.mark.parametrize("metric", [RMSE, MAE, R2])
def test_draws_that_change_nothing_cost_exactly_nothing(make_case, make_result, metric):
    labels = np.random.default_rng(0).normal(size=5) * 100
    case = replace(make_case(labels=labels, task="regression"), metrics=(metric,))
    sweep, golden = collected(
        case, make_result({"golden": labels + 0.25, "a": labels + 0.25, "b": labels + 0.25}), ["a", "b"]
    )
    lost = loss(case, sweep, golden)
    assert (lost.value, lost.low, lost.high) == (0, 0, 0)


def test_a_root_mean_square_is_paired_by_input(make_case, make_result):
    labels = np.array([0.0, 10, 20, 1000, 5])
    golden = labels + np.array([1, 100, 3, 5000, 2])  # errors of very different sizes: unpaired, nothing can be seen
    case = make_case(labels=labels, task="regression")
    worse = {f"draw{place}": labels + (golden - labels) * 1.01 for place in range(6)}
    sweep, whole = collected(case, make_result({"golden": golden, **worse}), list(worse))
    lost = loss(case, sweep, whole)
    assert lost.value == pytest.approx(0.01 * RMSE.aggregate(RMSE.per_sample(golden, labels)))
    assert lost.low > 0


@pytest.mark.parametrize("metric", [RMSE, MAE, R2])
def test_an_infinite_output_has_the_figure_of_the_others_beside_it(make_case, make_result, metric):
    labels = np.array([0.0, 1, 2, 3, 10])
    case = replace(make_case(labels=labels, task="regression"), metrics=(metric,))
    draws = dict.fromkeys("abcd", labels + 1)
    draws["b"] = np.where(labels == 3, np.inf, labels + 1)
    sweep, golden = collected(case, make_result({"golden": labels, **draws}), list(draws))
    lost, figures = loss(case, sweep, golden), {row.metric: row for row in finite_rows("s", case, sweep, golden, "{}")}
    assert (lost.value, lost.low) == (np.inf, np.inf)  # it has been seen
    assert abs(figure(case, sweep, golden).value) == np.inf
    assert set(figures) == {metric.name, "accuracy_drop"}
    kept = np.delete(np.tile(labels, 4), 8)
    without = metric.worsening(metric.aggregate(kept * 0, kept), metric.aggregate(kept * 0 + 1, kept))
    assert figures["accuracy_drop"].value == pytest.approx(without, rel=0.05)
    assert np.isfinite([figures["accuracy_drop"].ci_low, figures["accuracy_drop"].ci_high]).all()
    assert figures["accuracy_drop"].condition == '{"outputs": "finite"}'
    assert "without the 1 of 20 outputs" in figures["accuracy_drop"].detail


def test_finite_outputs_need_no_companion(make_case, make_result):
    labels = np.arange(5.0)
    case = make_case(labels=labels, task="regression")
    sweep, golden = collected(case, make_result({"golden": labels, "a": labels + 1, "b": labels + 2}), ["a", "b"])
    assert list(finite_rows("s", case, sweep, golden, "{}")) == []


def test_a_draw_that_changes_nothing_has_the_golden_outputs_that_all_studies_share(make_case, make_result):
    scores = np.zeros((5, 3))
    np.put_along_axis(scores, GOLDEN.astype(int), np.array([3.0, 2.0, 1.0]), axis=1)
    result = make_result({"a": with_best(0, 1, 2, 1, 0), "untouched": None})
    result.data["variants"]["untouched"] = {"n_faults": 0, "arrays": [], "golden": True}
    case = make_case()
    sweep, _ = collected(case, result, ["a", "untouched"], Golden.of(case, make_result({"golden": scores})))
    assert sweep.matrix(sweep.changed).tolist() == [[False] * 4 + [True], [False] * 5]
    assert sweep.matrix(sweep.values)[1].tolist() == [1, 1, 1, 0, 1]


def test_draws_on_some_inputs_are_compared_with_the_golden_outputs_of_those(make_case, make_result):
    case = make_case()
    chosen = {draw: chosen_inputs(case.seed, draw, 5, 3) for draw in (0, 1)}
    result = make_result({"golden": GOLDEN, **{f"d{draw}": GOLDEN[places] for draw, places in chosen.items()}})
    golden = Golden(GOLDEN, np.array([1.0, 1, 1, 0, 1]))
    sweep = gather(case, [Drawn(draw, result, f"d{draw}", 3) for draw in chosen], golden)
    assert sweep.inputs.tolist() == [*chosen[0], *chosen[1]]
    assert sweep.draws.tolist() == [0, 0, 0, 1, 1, 1]
    assert not sweep.changed.any()
    assert not sweep.losses.any()
    assert figure(case, sweep, golden).value == 0.8  # of all inputs, whichever the draws ran on
    assert [len(part) for part in sweep.of_draw(sweep.due)] == sweep.sizes == [3, 3]


def test_a_figure_stays_in_its_bounds_where_draws_lose_more_than_all_inputs_have(make_case, make_result):
    case = make_case()
    right = [draw for draw in range(30) if 3 not in chosen_inputs(case.seed, draw, 5, 2)][:3]
    result = make_result({"golden": GOLDEN, **{f"d{draw}": NO_OUTPUT[:2] for draw in right}})
    golden = Golden(GOLDEN, np.array([1.0, 1, 1, 0, 1]))
    sweep = gather(case, [Drawn(draw, result, f"d{draw}", 2) for draw in right], golden)
    found = figure(case, sweep, golden)
    assert (found.value, found.low) == (0, 0)
    assert loss(case, sweep, golden).value == 1


def test_a_session_that_gives_other_golden_outputs_has_a_golden_run_of_its_own(make_case, make_result):
    case, scores = make_case(), np.eye(5, 3)
    golden = make_result({"golden": scores})
    same = make_result({"a": GOLDEN}, data={"first": [content_hash(scores[: case.batch])]})
    other = make_result({"a": GOLDEN}, data={"first": [content_hash(scores[: case.batch] + 1e-9)]})
    assert own_golden(case, {"golden": golden, "flips": same}, "flips") == {}
    (label, job), *none = own_golden(case, {"golden": golden, "flips": other}, "flips").items()
    assert (none, job.params["mutable"], job.variants) == ([], True, ("golden",))
    results = {"golden": golden, "flips": other, label: same}
    assert own_golden(case, results, "flips") == {}
