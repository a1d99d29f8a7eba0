"""The report's sections, one module each; a new study's section is added to `MODULES`.

A module has ``STUDIES``, the studies whose figures the report shows there (or in the comparison and the profiles'
details), and ``section(view)``, which gives a `Section` or None where the table holds nothing for it. A study that no
module names is listed as it stands, so that no figure goes unseen.
"""

from __future__ import annotations

from typing import Protocol

from hwbench.report.blocks import Section
from hwbench.report.sections import (
    bit_flips,
    coverage,
    faults,
    least_memory,
    lint,
    memory,
    memory_errors,
    noise,
    other,
    portability,
    scaling,
    slices,
    sustained,
    tradeoff,
    worst_case,
)
from hwbench.report.view import View


class SectionModule(Protocol):
    """What a section's module holds."""

    @property
    def STUDIES(self) -> tuple[str, ...]:  # noqa: N802  # a constant of the module
        """The studies whose figures the report shows."""

    def section(self, view: View) -> Section | None:
        """The section, or None if it does not apply."""


MODULES: tuple[SectionModule, ...] = (
    tradeoff, slices, bit_flips, faults, memory_errors, worst_case, noise, scaling, sustained, memory, least_memory,
    portability, coverage, lint,
)  # fmt: skip


def sections(view: View) -> list[Section]:
    """Every section that applies to a run, in the report's order."""
    known = [study for module in MODULES for study in module.STUDIES]
    applying = [section for module in MODULES if (section := module.section(view)) is not None]
    return [*applying, *other.sections(view, known)]
