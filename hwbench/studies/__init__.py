"""Studies: each plans jobs for one build on one target, and turns their raw results into rows of the measurement table."""

from hwbench.studies.base import Analysis, Case, Interim, Study, Subject, studies

__all__ = ["Analysis", "Case", "Interim", "Study", "Subject", "studies"]
