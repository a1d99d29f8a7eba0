"""Coverage: for every ONNX node, the device and precision asked for against what ran."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwbench.graph import asked_precisions
from hwbench.studies.base import Analysis, Case, Study
from hwbench.table import Row, condition
from hwbench.worker.protocol import Job, JobResult


class CoverageStudy(Study):
    """Whether the build ran where, and in the precision, it was asked to."""

    name = "coverage"
    headline = "nodes_as_asked"

    def plan(self, case: Case, settings: Any) -> dict[str, Job]:
        """One job that compiles the build and asks the runtime."""
        return {"coverage": coverage_job(case)}

    def analyse(self, case: Case, settings: Any, results: Mapping[str, JobResult]) -> Analysis:
        """The share of nodes that ran as asked, and a row for each that did not."""
        data = results["coverage"].data
        deviations = _deviations(case, data["nodes"], data["executed"])
        n = len(data["nodes"])
        said = "; ".join(f"{count}× {kind}" for kind, count in _kinds(deviations).items())
        rows = [Row(self.name, self.headline, value=1 - len(deviations) / n, unit="ratio", n=n, detail=said)]
        for node, (kind, text) in deviations.items():
            rows.append(
                Row(self.name, self.headline, condition(node=node), 0.0, "ratio", n=1, detail=f"{kind}: {text}")
            )
        return Analysis(rows, files=compiled_form(results["coverage"]))


def coverage_job(case: Case) -> Job:
    """The job that compiles the build and asks the runtime about it; studies that plan it share it."""
    return case.subject.job("coverage", case)


def compiled_form(result: JobResult) -> list[Path]:
    """The file that a worker wrote of the compiled build, by its name alone: a hostile model may have taken the worker over."""
    compiled = result.data.get("compiled")
    return [result.folder / Path(compiled["file"]).name] if compiled else []


def ran_precisions(executed: list[dict[str, Any]]) -> dict[str, int]:
    """How many executed nodes that multiply computed in which format."""
    counted: dict[str, int] = {}
    for node in executed:
        if node["precision"]:
            counted[node["precision"]] = counted.get(node["precision"], 0) + 1
    return counted


def _deviations(case: Case, nodes: list[dict[str, Any]], executed: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Node to (kind, text) where what ran is not what was asked."""
    backend = case.subject.backend_type()
    device, override = backend.device(case.subject.options), backend.float_precision(case.subject.options)
    ran = {name: node for node in executed for name in node["onnx_nodes"]}
    asked = asked_precisions(case.subject.build.model)
    found = {}
    for node in nodes:
        name = node["node"]
        where = ran[name]["device"] if name in ran else node["device"]
        if not node["supported"]:
            found[name] = ("not supported", f"{node['op_type']}: {node['reason']}")
        elif where and where.lower() != device.lower():
            found[name] = ("other device", f"{node['op_type']}: asked {device}, ran on {where}")
        elif name in asked and name in ran and ran[name]["precision"]:
            want = override if override and asked[name].startswith(("fp", "bf")) else asked[name]
            if ran[name]["precision"] != want:
                kernel = f" ({ran[name]['kernel']})" if ran[name]["kernel"] else ""
                found[name] = (
                    "other precision",
                    f"{node['op_type']}: asked {want}, ran {ran[name]['precision']}{kernel}",
                )
    return found


def _kinds(deviations: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for kind, _ in deviations.values():
        counted[kind] = counted.get(kind, 0) + 1
    return counted
