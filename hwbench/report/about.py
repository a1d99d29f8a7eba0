"""Origin of a run's figures: model, data, host, versions, and the method behind each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hwbench.durations import format_duration
from hwbench.report.blocks import Cell, Table
from hwbench.report.format import exact, number, size, study_title, when
from hwbench.report.view import View

METHODS = {
    "accuracy": "Evaluated on all of the given data. Proportions have Clopper and Pearson's exact interval. The drop is the "
    "paired difference to the reference on the same inputs. Its interval is Tango's score interval for proportions, widened "
    "where it covers too little, else a bootstrap over inputs. The drop is exactly 0 if all outputs are bit-identical. "
    "McNemar's p-value is exact.",
    "fidelity": "The build's outputs against the reference model's, on the same inputs. Layers are observed only in graphs "
    "whose output equals the uncut build's bit for bit. A layer's accumulated error includes the error of the layers before "
    "it. Its own error is that of the layer fed by the reference's tensors, quantized by the build's own nodes. An output's "
    "slices, along the axis where the reference's ranges differ most, are grouped by range; probabilities are one group. A "
    "group's SQNR is the reference's variation about each slice's mean over the squared error, with a bootstrap interval over "
    "inputs.",
    "coverage": "Each ONNX node's device and precision, as the runtime reports them after compiling, against those that the "
    "profile asked for.",
    "latency": "One inference at a time with inputs bound, after a warm-up until times are steady, in several fresh processes "
    "(launches). Launch k of every profile precedes launch k + 1 of any, in random order. Windows disturbed by other "
    "processes, a hypervisor or throttling are measured again. A figure is the geometric mean over launches; its interval is "
    "Student's on the logarithms of the launches' figures. Ratios are paired by block, the launches of the same number; from "
    "six blocks on, the ratio is Hodges and Lehmann's estimate with Wilcoxon's interval.",
    "throughput": "Batch sizes and thread counts are swept in the same launches as the latency; the best point is named.",
    "lint": "Findings on the deployed graph, without running it: effects that a processor or a runtime will have on the build, "
    "each with the change that cures it.",
    "scaling": "Latency and throughput over numbers of threads and enforced processor quotas, in launches. Efficiency is the "
    "throughput per thread over that of the fewest threads. Outputs are compared with those of the first point.",
    "sustained": "Runs follow each other without pause for minutes. The figure is the last window's throughput over the "
    "first's. Windows in which other processes used the machine are rejected.",
    "least_memory": "A bisection over enforced caps. Every trial is a fresh process, started with none of its files in memory. "
    "The figure is the smallest cap under which loading and running succeed.",
    "portability": "The same build on other processors' instruction sets, emulated by QEMU, against the reference and against "
    "this processor. If outputs differ, layers are compared in graphs whose output equals the uncut build's bit for bit on "
    "both machines.",
    "memory": "Peak of the whole process tree, anonymous and file-backed memory apart. A cap is enforced by the "
    "operating system.",
    "bit_flips": "Each stored bit has one uniform number per draw and flips if that is below the rate: errors at one rate "
    "include those at lower rates, and builds that store the same tensor share them. Each draw runs on inputs of its own. "
    "Sampling is sequential: it ends when the mean loss is shown to be on one side of the limit, or when its effort is spent. "
    "Intervals cover unseen draws and inputs, at every look (Gaffke's bound for a bounded mean, with alpha spending). Those of "
    "unbounded metrics are bootstrapped and cover only the kinds of failure that were drawn.",
    "faults": "One fault at a time in the stored numbers of the deployed build, run over the inputs and compared with the "
    "fault-free output. Rates are over (fault, input) pairs; their intervals are clustered by fault.",
    "memory_errors": "Simulated chips whose cells fail at a supply voltage, or at a failure-in-time rate over hours. Cells "
    "that fail at one voltage fail at every lower one. Protection decodes each word as its code would. Energy follows V². "
    "Chips are sampled until the interval, which covers unseen chips and inputs, is narrow enough.",
    "worst_case": "A search for the flips that hurt most. The result is an upper bound on the minimum number of flips.",
    "noise": "Input noise has variance var(x)/10^(SNR/10) per sample and is not clipped. The same draws serve every strength "
    "and build. Sampling is sequential: it ends when the interval, which covers unseen draws and inputs, is narrow enough, or "
    "when more draws would narrow it little because the inputs dominate.",
}
_UNLABELED = "none: accuracy is unavailable; builds are judged by their agreement with the reference"
_GENERAL = (
    "Verdicts",
    "A rule passes if the whole interval is inside its limit, fails if the whole interval is outside, and is "
    "inconclusive if the interval straddles it. Without a figure it is unavailable.",
)


def methods(view: View) -> list[tuple[str, str]]:
    """The methods behind this run's figures, a few sentences per study."""
    texts = [(study_title(study), METHODS[study]) for study in view.studies if study in METHODS]
    return [_GENERAL, *texts, *_budget(view), *_repairs(view), *_deaths(view)]


def _repairs(view: View) -> list[tuple[str, str]]:
    """Damaged builds and job results that were found by their hashes and made again."""
    repairs = view.run.get("repairs")
    return [("Repairs", " ".join(f"{text}." for text in repairs))] if isinstance(repairs, list) and repairs else []


def _deaths(view: View) -> list[tuple[str, str]]:
    """The workers that died, and what became of their work."""
    found = view.run.get("worker_deaths")
    deaths = [death for death in found if isinstance(death, Mapping)] if isinstance(found, list) else []
    if not deaths:
        return []
    jobs = [f"{death.get('profile')}: {death.get('study')}, {death.get('job')}" for death in deaths]
    counts = ", ".join(f"{job} ({jobs.count(job)})" for job in dict.fromkeys(jobs))
    text = "Workers died, and their work ran again, alone. A death counts as an outcome only if it recurs and the fault-free "
    return [("Workers that died", f"{text}build then runs. {counts}. Reasons are in run.json.")]


def _budget(view: View) -> list[tuple[str, str]]:
    """The run's budget, if it had one, how it was spent and the work that was declined."""
    budget = view.section("budget")
    if not budget.get("seconds"):
        return []
    spent = sorted(budget["job_s"].items(), key=lambda item: -item[1])
    jobs = ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in spent)
    parts = [
        f"The budget was {format_duration(budget['seconds'])}; the run took {format_duration(budget['wall_s'])} before "
        f"its reports were written. Time in jobs, some of which ran at once: {jobs}."
    ]
    if budget["declined"]:
        left_out = ", ".join(f"{one['study']} of {one['profile']}" for one in budget["declined"])
        parts.append(f"Jobs were declined in: {left_out}.")
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
        ("Calibration", "; ".join(str(part) for part in (counted, given.get("note")) if part)),
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
        ("Sandbox of the workers", host.get("sandbox")),
        ("Python", host.get("python")),
        ("hwbench", view.run.get("hwbench")),
        ("Seed", view.run.get("seed")),
        ("Trusted profiles", _trusted(view)),
        ("Started", when(view.run["created"]) if view.run.get("created") else None),
        ("Finished", when(view.run["finished"]) if view.run.get("finished") else None),
    )


def _trusted(view: View) -> str | None:
    """The runtime options that profiles set beyond the allowlist; None if the run trusted no profile."""
    if not view.section("spec").get("trust_profile"):
        return None
    lifted = {name: view.about(name).get("beyond_allowlist") for name in view.section("profiles")}
    named = [f"{name}: {', '.join(map(str, options))}" for name, options in lifted.items() if options]
    return "; ".join(named) or "all, and none sets an option beyond the allowlist"


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
