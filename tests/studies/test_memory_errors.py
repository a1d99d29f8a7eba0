"""Memory errors: figures on the demo model against faults done by hand, and what cannot be asked for."""

from __future__ import annotations

import json

import numpy as np
import onnx
import polars as pl
import pytest
from error_bits import failing_bits
from onnx import numpy_helper
from pydantic import ValidationError
from shared_run import SharedRun, bare_outputs, some_digits

import hwbench
from hwbench import demo
from hwbench.errors import InputError, SpecError
from hwbench.faults.error_rates import SRAM_14NM, upset_rate
from hwbench.studies.memory_errors import MemoryErrorsStudy
from hwbench.studies.memory_errors_settings import MemoryErrorsSettings
from hwbench.topk import best_classes

SEED, CHIPS = 3, 3
VOLTAGES = (1, 0.917, 0.89)
SECDED = "secded_72_64"
BOTH = "sign_exponent_triplication+secded_72_64"
FIT = {"fit": 70000, "hours": 876000}
SETTINGS = {
    "voltages": list(VOLTAGES),
    "chips": CHIPS,
    "protections": [[SECDED], BOTH.split("+")],
    "fit": {"rate_per_mbit": [FIT["fit"]], "hours": [FIT["hours"]]},
}
POINTS = [*({"voltage": voltage} for voltage in VOLTAGES), FIT]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory_errors")
    data, x, y = some_digits(folder / "digits.npz")
    run = hwbench.run(
        demo.MODEL,
        data={"source": str(data)},
        calibration={"source": str(demo.CALIBRATION)},
        profiles=["cpu-int8"],
        studies=["memory_errors"],
        out=folder / "run",
        seed=SEED,
        settings={"memory_errors": SETTINGS},
    )
    return SharedRun(run, data, x, y)


def row(measured, metric, **setting):
    return measured.row("cpu-int8", "memory_errors", metric, **setting)


def draws(measured, **setting):
    wanted = json.dumps(setting, sort_keys=True)
    stored = pl.read_parquet(measured.run.path / "memory_errors" / "cpu-int8" / "part-*.parquet")
    return stored.filter(pl.col("condition") == wanted).sort("chip")


def failing_cells(name, n_bits, chip, rate):
    return np.array(failing_bits(SEED, chip, name, n_bits, rate), dtype=np.int64)


def faulty_by_hand(path, chip, rate, *, protected):
    """The file as it is read from a chip: bits flipped, or words with one error mended and words with two zeroed."""
    model, words = onnx.load(path), {"corrected": 0, "detected": 0}
    for tensor in model.graph.initializer:
        content = np.frombuffer(numpy_helper.to_array(tensor).tobytes(), np.uint8)
        stored = np.unpackbits(content, bitorder="little")
        wrong = failing_cells(tensor.name, stored.size, chip, rate)
        if protected:
            checks = failing_cells(f"{tensor.name}@{SECDED}", -(-stored.size // 64) * 8, chip, rate)
            errors = np.bincount(np.concatenate([wrong // 64, checks // 8]), minlength=-(-stored.size // 64))
            assert errors.max() <= 2  # more would need a decoder
            words["corrected"] += int((errors == 1).sum())
            words["detected"] += int((errors == 2).sum())
            stored[np.repeat(errors == 2, 64)[: stored.size]] = 0
        else:
            stored[wrong] ^= 1
        raw = np.packbits(stored, bitorder="little").tobytes()
        tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=raw))
    return model.SerializeToString(), words


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize("voltage", [0.917, 0.89])
def test_chips_done_by_hand_on_the_files_bytes_give_the_same_figures(measured, voltage, protected):
    path, setting = measured.deployed("cpu-int8"), {"protection": SECDED} if protected else {}
    golden, counts = bare_outputs(path, measured.x).argmax(axis=1), []
    for recorded in draws(measured, voltage=voltage, **setting).to_dicts():
        rate = SRAM_14NM.rate(voltage)
        faulty, words = faulty_by_hand(path, recorded["chip"], rate, protected=protected)
        outputs = bare_outputs(faulty, measured.x)
        due = ~np.isfinite(outputs).all(axis=1)
        best = outputs.argmax(axis=1)
        assert recorded["rate"] == rate
        assert recorded["n_due"] == due.sum()
        assert recorded["n_changed"] == (~due & (best != golden)).sum()
        assert recorded["top1"] == (~due & (best == measured.y)).mean()
        counts.append(words)
    assert len(counts) == CHIPS
    if protected:
        for metric in ("corrected", "detected"):
            mean = row(measured, metric, voltage=voltage, **setting)
            assert mean.value == pytest.approx(np.mean([words[metric] for words in counts]))
            assert mean.ci_low <= mean.value <= mean.ci_high
        assert row(measured, "miscorrected", voltage=voltage, **setting).value == 0


def test_rows_are_means_over_the_draws_table(measured):
    for point in POINTS:
        for stack in ({}, {"protection": SECDED}, {"protection": BOTH}):
            drawn = draws(measured, **point, **stack)
            means = {
                "top1": drawn["top1"].mean(),
                "sdc_rate": drawn["n_changed"].sum() / drawn["n_inputs"].sum(),
                "due_rate": drawn["n_due"].sum() / drawn["n_inputs"].sum(),
            }
            for metric, value in means.items():
                figure = row(measured, metric, **point, **stack)
                assert figure.value == pytest.approx(value), (metric, point, stack)
                assert figure.ci_low <= figure.value <= figure.ci_high
            assert row(measured, "top1", **point, **stack, draw="worst").value == drawn["top1"].min()


def test_what_protection_buys_is_the_difference_of_the_drops(measured):
    avoided = []
    for point in POINTS:
        without = row(measured, "accuracy_drop", **point).value
        for stack in (SECDED, BOTH):
            figure = row(measured, "drop_avoided", **point, protection=stack)
            assert figure.value == pytest.approx(
                without - row(measured, "accuracy_drop", **point, protection=stack).value
            )
            assert figure.ci_low <= figure.value <= figure.ci_high
            avoided.append(figure.value)
    assert max(avoided) > 0.1


def test_without_errors_nothing_is_lost(measured):
    for stack in ({}, {"protection": SECDED}):
        assert row(measured, "accuracy_drop", voltage=1, **stack).value == 0
        assert draws(measured, voltage=1, **stack)["n_faults"].to_list() == [0] * CHIPS


def test_energy_follows_voltage_and_storage(measured):
    overhead = row(measured, "storage_overhead", protection=SECDED).value
    model = onnx.load(measured.deployed("cpu-int8"))
    sizes = np.array([8 * numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer])
    assert overhead == pytest.approx((-(-sizes // 64) * 8).sum() / sizes.sum())
    for voltage in VOLTAGES:
        assert row(measured, "energy", voltage=voltage).value == pytest.approx(voltage**2)
        protected = row(measured, "energy", voltage=voltage, protection=SECDED)
        assert protected.value == pytest.approx(voltage**2 * (1 + overhead))
        assert protected.ci_low is None


def test_soft_errors_come_at_their_rate(measured):
    drawn = draws(measured, **FIT)
    assert drawn["rate"].unique().to_list() == [upset_rate(FIT["fit"], FIT["hours"])]
    said = row(measured, "top1", **FIT).detail
    assert "upsets expected" in said
    expected = float(said.split(", ")[-1].split()[0])
    assert abs(drawn["n_faults"].sum() - CHIPS * expected) < 5 * np.sqrt(CHIPS * expected)


def test_a_device_that_halts_is_due_on_every_input(make_case, make_result):
    names = ["draw0-voltage0.9", "draw1-voltage0.9"]
    case = make_case(labels=[0, 1, 2, 0, 1])
    settings = MemoryErrorsSettings(voltages=[0.9], chips=2, protections=[["parity_8"]], uncorrectable="halt")
    golden = best_classes(np.eye(3)[[0, 1, 2, 0, 1]])
    outputs = {names[0]: golden, names[1]: golden, f"{names[0]}-parity_8": golden}
    result = make_result({**outputs, f"{names[1]}-parity_8": None})
    report = {"errors": 4, "corrected": 0, "detected": 3, "miscorrected": 0, "undetected": 0}
    for name, record in result.data["variants"].items():
        record["memory"] = {**report, "data_bits": 80, "stored_bits": 90 if "parity" in name else 80}
    whole = make_result({"golden": np.eye(3)[golden[:, 0]]})
    analysis = MemoryErrorsStudy().analyse(case, settings, {"golden": whole, "chips-round0-000000-000002": result})
    found = {(one.metric, one.condition): one.value for one in analysis.rows}
    setting = '{"protection": "parity_8", "voltage": 0.9}'
    assert found["due_rate", setting] == 0.5
    assert found["accuracy_drop", setting] == 0.5
    assert found["drop_avoided", setting] == -0.5
    assert found["detected", setting] == 3
    assert found["storage_overhead", '{"protection": "parity_8"}'] == pytest.approx(0.125)
    assert analysis.parts["memory_errors"]["n_due"].to_list() == [0, 0, 0, 5]


def test_a_metric_that_is_no_mean_has_the_intervals_far_ends(make_case, make_result):
    labels = np.arange(5.0)
    case = make_case(labels=labels, task="regression")
    settings = MemoryErrorsSettings(voltages=[0.9], chips=2, protections=[["parity_8"]])
    golden, outputs = make_result({"golden": labels[:, None]}), {}
    for chip, error in enumerate((1.0, 3.0)):
        outputs[f"draw{chip}-voltage0.9"] = (labels + error)[:, None]
        outputs[f"draw{chip}-voltage0.9-parity_8"] = (labels + error / 2)[:, None]
    result = make_result(outputs)
    for record in result.data["variants"].values():
        record["memory"] = dict.fromkeys(("errors", "corrected", "detected", "miscorrected", "undetected"), 0)
        record["memory"] |= {"data_bits": 8, "stored_bits": 9}
    rows = MemoryErrorsStudy().analyse(case, settings, {"golden": golden, "chips-round0-000000-000002": result}).rows
    (figure,) = [one for one in rows if one.metric == "drop_avoided"]
    assert case.primary.name == "rmse"
    assert figure.value == pytest.approx(np.sqrt(5) - np.sqrt(5) / 2)
    assert figure.ci_low < figure.value < figure.ci_high


def test_without_labels_there_are_rates_energy_and_the_reason(make_case, make_result):
    case = make_case(labels=None)
    settings = MemoryErrorsSettings(voltages=[0.9], chips=2, protections=[])
    golden = best_classes(np.eye(3)[[0, 1, 2, 0, 1]])
    whole = make_result({"golden": np.eye(3)[golden[:, 0]]})
    result = make_result({"draw0-voltage0.9": golden, "draw1-voltage0.9": golden})
    for record in result.data["variants"].values():
        record["memory"] = {"errors": 0, "data_bits": 8, "stored_bits": 8}
    rows = MemoryErrorsStudy().analyse(case, settings, {"golden": whole, "chips-round0-000000-000002": result}).rows
    assert [(one.metric, one.status) for one in rows] == [
        ("sdc_rate", "ok"), ("due_rate", "ok"), ("energy", "ok"), ("accuracy_drop", "unavailable")
    ]  # fmt: skip


def test_faults_that_were_not_undone_are_an_error(make_case, make_result):
    results = {"golden": make_result({}), "chips-round0-000000-000002": make_result({}, data={"restored": False})}
    (one,) = MemoryErrorsStudy().analyse(make_case(), MemoryErrorsSettings(), results).rows
    assert (one.status, one.metric) == ("error", "accuracy_drop")


def test_the_plan_goes_chip_by_chip_from_the_highest_voltage_down(make_case):
    settings = MemoryErrorsSettings(
        chips=2, asymmetry=0.3, columns={"weak": 3}, voltages=[0.9, 0.95], fit={"hours": [1]}, protections=[[SECDED]]
    )
    job = MemoryErrorsStudy().plan(make_case(seed=9), settings)["chips-round0-000000-000002"]
    variants = dict(job.params["variants"])
    assert variants.pop("golden")["kind"] == "golden"
    assert list(variants)[:4] == [
        "draw0-voltage0.95", f"draw0-voltage0.95-{SECDED}", "draw0-voltage0.9", f"draw0-voltage0.9-{SECDED}"
    ]  # fmt: skip
    assert len(variants) == 2 * 4 * 2
    assert variants[f"draw1-voltage0.9-{SECDED}"] == {
        "kind": "memory_errors", "seed": 9, "draw": 1, "rate": SRAM_14NM.rate(0.9), "asymmetry": 0.3,
        "columns": {"row_bits": 512, "weak": 3, "share": 0.5, "chips": 0.5},
        "protections": [SECDED], "uncorrectable": "zero",
    }  # fmt: skip
    # Soft errors hit every bit alike.
    assert variants["draw0-fit25000.0-hours1.0"]["rate"] == upset_rate(25_000, 1)
    assert "asymmetry" not in variants["draw0-fit25000.0-hours1.0"]


def test_a_users_table_is_kept_with_the_settings(tmp_path):
    path = tmp_path / "sram.csv"
    path.write_text("voltage,ber\n1,0\n0.9,1e-3\n")
    settings = MemoryErrorsSettings(table=str(path))
    assert settings.table == ((1, 0), (0.9, 1e-3))
    assert [point.setting for point in settings.points] == [{"voltage": 1}, {"voltage": 0.9}]
    assert MemoryErrorsSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"voltages": [0.9, 0.5]}, r"memory_errors\.voltages: no bit error rate .* 0\.5: the table covers 0\.75 to 1"),
        ({"table": [[1, 0]]}, r"memory_errors\.table: .*two points or more"),
        ({"table": [[1, 0.1], [0.9, 0]]}, r"memory_errors\.table: voltage table: point 1: the rate 0\.1 at 1 is above"),
        ({"table": "nowhere.csv"}, r"nowhere\.csv: cannot be read: No such file"),
        ({"protections": [["hamming"]]}, r"memory_errors\.protections: unknown protection 'hamming'"),
        ({"protections": [[SECDED, "sign_exponent_duplication"]]}, "has to come first"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_runs(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        hwbench.run(
            demo.MODEL,
            data={"source": str(demo.DATA)},
            profiles=["cpu-int8"],
            studies=["memory_errors"],
            out=tmp_path / "run",
            settings={"memory_errors": given},
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"voltages": []}, "nothing is asked for"),
        ({"temperatures": [60]}, "temperatures need a temperature_table"),
        ({"columns": {"row_bits": 8, "weak": 8}}, "of 8 columns fewer"),
        ({"protections": [[]]}, "at least 1 item"),
        ({"chips": 1}, "greater than or equal to 2"),
        ({"asymmetry": 1}, "less than 1"),
        ({"uncorrectable": "retry"}, "'zero' or 'halt'"),
    ],
)
def test_settings_are_checked(given, message):
    with pytest.raises(ValidationError, match=message):
        MemoryErrorsSettings(**given)


def test_the_path_of_a_wrong_setting_is_told():
    with pytest.raises(SpecError, match=r"^settings\.memory_errors\.voltages: "):
        MemoryErrorsSettings(voltages=[2])


def test_temperatures_are_points_of_their_own_table(tmp_path):
    (tmp_path / "retention.csv").write_text("temperature_c,ber\n85,1e-4\n45,0\n65,1e-6\n")
    given = {"voltages": [], "temperature_table": str(tmp_path / "retention.csv")}
    points = MemoryErrorsSettings(**given).points
    assert [(point.setting, point.rate) for point in points] == [
        ({"temperature_c": 45}, 0), ({"temperature_c": 65}, 1e-6), ({"temperature_c": 85}, 1e-4),
    ]  # fmt: skip
    asked = MemoryErrorsSettings(**given, temperatures=[75, 50]).points
    assert [point.setting["temperature_c"] for point in asked] == [50, 75]
    with pytest.raises(SpecError, match=r"^settings\.memory_errors\.temperatures: .* covers 45 to 85"):
        MemoryErrorsSettings(**given, temperatures=[125])
