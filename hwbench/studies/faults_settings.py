"""Settings of a fault campaign."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwbench.bounds import BATCH, INPUTS, REPEATS, TRIALS
from hwbench.faults.fault import Kind
from hwbench.faults.space import Role
from hwbench.studies.base import NamesFile, Settings
from hwbench.studies.deployed import Places

Range = tuple[Annotated[int, Field(ge=0, le=REPEATS)], Annotated[int, Field(ge=0, le=REPEATS)]]
_SELECTION = ("sampler", "inputs_per_fault", "places", "kind", "width", "tensors", "ops", "roles", "depth", "bits")


class FaultsSettings(Settings):
    """Study settings."""

    sampler: Literal["uniform", "stratified", "exhaustive"] | None = Field(
        None, description="default: stratified for ci_half_width, else uniform"
    )
    trials: int | None = Field(None, gt=0, le=TRIALS, description="faults to try; default 1,000")
    ci_half_width: float | None = Field(
        None, gt=0, lt=0.5, description="half-width of the SDC rate's interval at which to stop"
    )
    inputs_per_fault: int | None = Field(
        None,
        gt=0,
        le=INPUTS,
        description="inputs of each trial; default: chosen by a pilot for ci_half_width, else all",
    )
    confidence: float = Field(0.95, gt=0, lt=1)
    faults: Annotated[str | None, NamesFile()] = Field(
        None, description="a CSV list of faults to replay instead of drawing them"
    )
    places: Places = Field(
        "stored", description="what faults are drawn in: numbers of the file, or what is made of inputs"
    )
    kind: Kind = "flip"
    width: int = Field(1, ge=1, le=64, description="bits of a burst")
    tensors: str = Field("*", description="pattern of tensors' names")
    ops: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    depth: Range | None = Field(None, description="first and last number of layers before the operator")
    bits: Range | None = Field(None, description="first and last bit of each element")
    only_correct: bool = Field(False, description="count only inputs that are right when fault-free")
    tolerance: float | None = Field(
        None, gt=0, description="absolute error above which a non-classifier output counts as SDC"
    )
    segmented: bool = Field(True, description="false: a full rebuild per trial")
    shard: int | None = Field(
        None,
        gt=0,
        le=TRIALS,
        description="trials per job; default 500, or 4,000 where they run over some of the inputs only",
    )
    chunk: int = Field(64, gt=0, le=BATCH, description="inputs held at a time")

    @model_validator(mode="after")
    def _consistent(self) -> FaultsSettings:
        chosen = [name for name in ("trials", "ci_half_width", "faults") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(f"{chosen[0]} and {chosen[1]} both say which faults to try; give one of them")
        told = [name for name in _SELECTION if getattr(self, name) != type(self).model_fields[name].default]
        if self.faults is not None and told:
            raise ValueError(f"a list names its faults itself; leave {told[0]} out, or the list")
        if self.inputs_per_fault is not None and not self.blocks:
            raise ValueError(
                "all faults, and faults in the build's file, run over all inputs; leave inputs_per_fault out"
            )
        return self

    @property
    def blocks(self) -> bool:
        """Whether trials may run over some of the inputs only; for a process of its own each, all are worth it."""
        chosen = self.ci_half_width is not None or self.inputs_per_fault is not None
        return chosen and self.sampler != "exhaustive" and self.places != "artefact"
