"""Where a run's figures come from: model, data, host, versions, and how each figure was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hwbench.durations import format_duration
from hwbench.report.blocks import Cell, Table
from hwbench.report.format import exact, number, size, study_title, when
from hwbench.report.view import View

METHODS = {
    "accuracy": "Evaluated in full on the given data, with Clopper and Pearson's exact interval for proportions. The drop is "
    "the paired difference to the reference on the same inputs: Tango's score interval for proportions, widened where it "
    "covers too little, else a bootstrap over inputs. It is exact where all outputs are bit-identical, as McNemar's "
    "p-value is.",
    "fidelity": "The build's outputs against the reference model's on the same inputs. Layers are looked at only in graphs "
    "whose output equals that of the uncut build bit for bit. A layer's accumulated error includes what it inherits from the "
    "layers before it; its own error is that of the layer fed by the reference's tensors, quantized by the build's own nodes.",
    "coverage": "Each ONNX node's device and precision as the runtime reports them after compiling, against what the "
    "profile asked for.",
    "latency": "One inference at a time with inputs bound, after warming up until steady, in several fresh processes "
    "(launches). Launch k of every profile precedes launch k + 1 of any, in random order. Windows disturbed by other "
    "processes, a hypervisor or throttling are measured again. A figure is the geometric mean over launches, its interval "
    "Student's on the logarithms of the launches' figures; ratios are paired by block.",
    "throughput": "Batch sizes and thread counts are swept in the same launches as the latency; the best point is named.",
    "lint": "Read off the deployed graph; nothing is run. A finding says what a processor or a runtime will make of the build, "
    "and the change that cures it.",
    "scaling": "Latency and throughput over numbers of threads and enforced processor quotas, in launches. Efficiency is the "
    "throughput per thread against that of one thread; outputs are compared with those of one thread.",
    "sustained": "Runs follow each other without pause for minutes; the figure is the last window's throughput over the "
    "first's. Windows in which other processes used the machine are rejected.",
    "least_memory": "A bisection over enforced caps. Every trial is a fresh process, started with none of its files in memory; "
    "the figure is the smallest cap under which loading and running succeed.",
    "portability": "The same build on other processors' instruction sets, emulated by QEMU, against the reference and against "
    "this processor. Where outputs differ, layers are compared in graphs whose output equals that of the uncut build bit for "
    "bit on both machines.",
    "memory": "Peak of the whole process tree, anonymous and file-backed memory apart. A cap is enforced by the "
    "operating system.",
    "bit_flips": "Each stored bit has one uniform number per draw and flips where that lies below the rate, so that "
    "error sets are nested and shared between profiles. Each draw runs on inputs of its own; draws go on, look after look, "
    "until the mean loss is shown to be on one side of the limit. Intervals hold for unseen draws and inputs and at every look "
    "(Gaffke's bound of a bounded mean, alpha spending); of metrics without bounds they are bootstrapped.",
    "faults": "One fault at a time in the stored numbers of the deployed build, run over the inputs and compared with the "
    "fault-free output. Rates are over (fault, input) pairs; their intervals are clustered by fault.",
    "memory_errors": "Simulated chips whose cells fail at a supply voltage, or at a failure-in-time rate over hours; what "
    "fails at one voltage fails at every lower one. Protection decodes each word as its code would. Energy follows V².",
    "worst_case": "A search for the flips that hurt most. What it finds is a bound from one side: fewer flips may do.",
    "noise": "Input noise has variance var(x)/10^(SNR/10) per sample and is not clipped; the same draw serves every "
    "strength and build. Draws go on until the interval, which holds for "
    "unseen draws and inputs, is narrow enough or more draws would add little to what the inputs leave open.",
}
_UNLABELED = "none: accuracy is unavailable; builds are judged by how they agree with the reference"
_GENERAL = (
    "Verdicts",
    "A rule passes if the whole interval is inside its limit, fails if the whole interval is outside, and is "
    "inconclusive if the interval straddles it. Without a figure it is unavailable.",
)


def methods(view: View) -> list[tuple[str, str]]:
    """How the figures of this run were measured, one sentence or two per study."""
    texts = [(study_title(study), METHODS[study]) for study in view.studies if study in METHODS]
    return [_GENERAL, *texts, *_budget(view)]


def _budget(view: View) -> list[tuple[str, str]]:
    """The time that the run was given, where it was, what took it and what was declined."""
    budget = view.section("budget")
    if not budget.get("seconds"):
        return []
    spent = sorted(budget["job_s"].items(), key=lambda item: -item[1])
    parts = [
        f"The run was given {format_duration(budget['seconds'])} and took {format_duration(budget['wall_s'])} until "
        f"its reports. Its jobs, some of them at once, took: {', '.join(f'{name} {format_duration(s)}' for name, s in spent)}."
    ]
    if budget["declined"]:
        left_out = ", ".join(f"{one['study']} of {one['profile']}" for one in budget["declined"])
        parts.append(f"Work was declined in: {left_out}.")
    return [("Budget", " ".join(parts))]


def model_facts(view: View) -> list[tuple[str, str]]:
    """The model: file, hash, size, inputs and outputs."""
    model = view.section("model")
    return _present(
        ("File", model.get("file")),
        ("SHA-256", model.get("sha256")),
        ("Size", size(model["bytes"]) if isinstance(model.get("bytes"), int) else None),
        ("Nodes", model.get("nodes")),
        ("Parameters", exact(model["parameters"]) if isinstance(model.get("parameters"), int) else None),
        ("Inputs", _ports(model.get("inputs"))),
        ("Outputs", _ports(model.get("outputs"))),
        ("Task", view.run.get("task")),
    )


def data_facts(view: View) -> list[tuple[str, str]]:
    """Evaluation and calibration data."""
    data = view.section("data")
    calibration = data.get("calibration")
    given = calibration if isinstance(calibration, Mapping) else {}
    counted = f"{given.get('n')} samples from {given.get('source')}" if given.get("source") else None
    return _present(
        ("Evaluation data", data.get("source")),
        ("Samples", data.get("n")),
        ("Labels", {True: data.get("label_note") or "yes", False: _UNLABELED}.get(data.get("labels"))),  # type: ignore[arg-type]  # a missing key gives None
        ("Classes", data.get("classes")),
        ("Calibration", ". ".join(str(part) for part in (counted, given.get("note")) if part)),
    )


def host_facts(view: View) -> list[tuple[str, str]]:
    """The machine and the run."""
    host = view.section("host")
    cores = " physical, ".join(str(host[key]) for key in ("cores_physical", "cores_logical") if host.get(key))
    return _present(
        ("Processor", host.get("cpu_model")),
        ("Instruction sets", ", ".join(map(str, host.get("isa") or ()))),
        ("Cores", f"{cores} logical" if cores else None),
        (
            "Memory",
            f"{number(float(host['memory_mib']))} MiB" if isinstance(host.get("memory_mib"), int | float) else None,
        ),
        ("System", " · ".join(str(host[key]) for key in ("os", "kernel", "machine") if host.get(key))),
        ("Python", host.get("python")),
        ("hwbench", view.run.get("hwbench")),
        ("Seed", view.run.get("seed")),
        ("Started", when(view.run["created"]) if view.run.get("created") else None),
        ("Finished", when(view.run["finished"]) if view.run.get("finished") else None),
    )


def versions(view: View) -> Table:
    """The packages the figures were made with."""
    packages = view.section("packages")
    return Table(
        ("Package", "Version"),
        tuple((Cell(str(name)), Cell(str(packages[name]))) for name in sorted(packages)),
        "Package versions",
    )


def _present(*pairs: tuple[str, Any]) -> list[tuple[str, str]]:
    return [(label, str(text)) for label, text in pairs if text not in (None, "")]


def _ports(ports: object) -> str:
    if not isinstance(ports, Sequence):
        return ""
    named = [port for port in ports if isinstance(port, Mapping)]
    return ", ".join(
        f"{port.get('name')}: {port.get('dtype')}[{' × '.join(_size(d) for d in port.get('shape') or ())}]"
        for port in named
    )


def _size(dimension: object) -> str:
    return "any" if dimension is None else str(dimension)
