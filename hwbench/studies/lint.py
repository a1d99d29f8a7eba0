"""Static warnings: what of the deployed graph other processors and runtimes will compute differently, slowly or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
from pydantic import field_validator

from hwbench.lint import TARGETS, Finding, lint
from hwbench.scales import lint_scales
from hwbench.studies.base import Analysis, Case, Settings, Study
from hwbench.table import Row, condition
from hwbench.worker.protocol import Job, JobResult

ANY = "any"
"""The kind of machine of findings that hold everywhere."""


class LintSettings(Settings):
    """Study settings."""

    targets: tuple[str, ...] = tuple(TARGETS)

    @field_validator("targets")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in TARGETS:
                raise ValueError(f"unknown kind of machine {name!r}; it is one of {', '.join(TARGETS)}")
        return names


class LintStudy(Study):
    """Reads the deployed graph and runs nothing.

    `hwbench.lint` knows the kinds of machines, `hwbench.scales` what holds on any.
    """

    name = "lint"
    headline = "findings"
    settings_type = LintSettings

    def plan(self, case: Case, settings: LintSettings) -> dict[str, Job]:
        """No job."""
        return {}

    def analyse(self, case: Case, settings: LintSettings, results: Mapping[str, JobResult]) -> Analysis:
        """The number of findings that hold on any machine and on each kind, and each of them."""
        build = case.subject.build
        model = onnx.load(build.model)
        found = {ANY: [*_kept_in_float(build.manifest["contents"]), *lint_scales(model)]}
        for name in settings.targets:
            found[name] = lint(model, case.subject.backend, case.subject.options, TARGETS[name])
        return Analysis([row for isa, findings in found.items() for row in self._rows(isa, findings)])

    def _rows(self, isa: str, findings: Sequence[Finding]) -> Iterator[Row]:
        rules = ", ".join(dict.fromkeys(finding.rule for finding in findings))
        yield Row(self.name, self.headline, condition(isa=isa), float(len(findings)), "count", detail=rules)
        for finding in findings:
            where = condition(isa=isa, **({"layer": finding.layer} if finding.layer else {}))
            cure = f"; cure: {finding.cure}" if finding.cure else ""
            unit = "ratio" if finding.share else ""
            yield Row(self.name, finding.rule, where, finding.share, unit, detail=f"{finding.reason}{cure}")


def _kept_in_float(contents: Mapping[str, Any]) -> Iterator[Finding]:
    for tensor, why in contents.get("kept_in_float", {}).items():
        yield Finding("kept_in_float", tensor, f"this tensor was left in float: {why}", "")
