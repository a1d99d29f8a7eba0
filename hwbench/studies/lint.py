"""Static warnings: what of the deployed graph other processors and runtimes will compute differently, slowly or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from pydantic import field_validator

from hwbench.lint import TARGETS, Finding, LintTarget, lint
from hwbench.studies.base import Analysis, Case, Settings, Study
from hwbench.table import Row, condition
from hwbench.worker.protocol import Job, JobResult


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
    """Reads the deployed graph and runs nothing; see `hwbench.lint` for what is known of each kind of machine."""

    name = "lint"
    headline = "findings"
    settings_type = LintSettings

    def plan(self, case: Case, settings: LintSettings) -> dict[str, Job]:
        """No job."""
        return {}

    def analyse(self, case: Case, settings: LintSettings, results: Mapping[str, JobResult]) -> Analysis:
        """For every kind of machine, how many findings there are, and each of them."""
        model = onnx.load(case.subject.build.model)
        return Analysis([row for name in settings.targets for row in self._rows(case, model, TARGETS[name])])

    def _rows(self, case: Case, model: onnx.ModelProto, target: LintTarget) -> Iterator[Row]:
        found = lint(model, case.subject.backend, case.subject.options, target)
        rules = ", ".join(dict.fromkeys(finding.rule for finding in found))
        yield Row(self.name, self.headline, condition(isa=target.name), float(len(found)), "count", detail=rules)
        for finding in found:
            yield Row(
                self.name, finding.rule, _where(target, finding), finding.share, "ratio" if finding.share else "",
                detail=f"{finding.reason}; cure: {finding.cure}",
            )  # fmt: skip


def _where(target: LintTarget, finding: Finding) -> str:
    return condition(isa=target.name, **({"layer": finding.layer} if finding.layer else {}))
