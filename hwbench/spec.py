"""Run specifications: what to run on what, as a TOML file, as flags, or as keyword arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hwbench.bounds import BATCH, POINTS, PROCESSORS, SEED, WAIT_S
from hwbench.dataset import DataSpec
from hwbench.durations import parse_duration
from hwbench.errors import SpecError, UnknownNameError
from hwbench.files import not_text
from hwbench.studies import studies
from hwbench.toml import read_toml


class RunSpec(BaseModel):
    """Everything that decides what a run measures.

    Relative paths are relative to the working directory, or to the TOML file they stand in.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = Field(description="the ONNX file")
    reference: str | None = Field(None, description="the fp32 ONNX file, where `model` is already quantized")
    data: DataSpec
    calibration: DataSpec | None = Field(None, description="default: the evaluation inputs, without their labels")
    split_calibration: float | None = Field(None, gt=0, lt=1, description="share of `data` held out for calibration")
    profiles: list[str] = Field(min_length=1, max_length=POINTS)
    trust_profile: bool = Field(
        False,
        description="let the profiles set runtime options beyond the allowlist, which may write files and load code",
    )
    studies: list[str] | None = Field(None, description="default: the default set (see README)")
    task: Literal["classification", "regression", "embedding"] | None = Field(
        None, description="default: inferred from output and labels"
    )
    metric: str | None = Field(None, description="`module:callable` of an accuracy metric of your own")
    output: str | None = Field(None, description="the output accuracy is measured on; default: the first")
    batch: int = Field(
        64, gt=0, le=BATCH, description="inputs per run where accuracy is measured; a graph's fixed batch prevails"
    )
    batch_axis: dict[str, Annotated[int, Field(ge=0)] | Literal["none"]] = Field(
        default_factory=dict,
        description='input or output to the axis of its batch, "none" for an input that is the same for all samples; '
        "default: none for a scalar input, the axis with the symbol of the batch, else 0",
    )
    baseline: str | None = Field(
        None, description="profile that ratios of timings refer to; default: the first that runs"
    )
    seed: int = Field(0, ge=0, le=SEED)
    timeout_s: float = Field(600.0, gt=0, le=WAIT_S, description="wall time after which a job is killed")
    jobs: int = Field(
        default_factory=lambda: min(2, os.cpu_count() or 1),
        gt=0,
        le=PROCESSORS,
        description="jobs that measure no time, run at once",
    )
    scheduler: str | None = Field(
        None,
        description="address of a Dask scheduler whose workers take the jobs that measure no time, and offer boards",
    )
    tls: str | None = Field(
        None, description="folder with `ca.pem`, `cert.pem` and `key.pem`, for a scheduler with a tls:// address"
    )
    budget: Annotated[float, Field(le=WAIT_S), BeforeValidator(parse_duration)] | None = Field(
        None, description='wall time after which the run ends: seconds, or "90s", "15m", "1h30m"'
    )
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict, description="study name to its settings")

    @model_validator(mode="after")
    def _one_calibration(self) -> RunSpec:
        if self.calibration is not None and self.split_calibration is not None:
            raise ValueError("give calibration or split_calibration, not both")
        return self


def load_spec(path: Path, **changes: Any) -> RunSpec:
    """Read a run specification from a TOML file; ``changes`` replace what it says.

    Raises:
        SpecError: The file is missing, not TOML, or does not validate; the message has the key path.
    """
    content = read_toml(path, str(path), SpecError)
    _relocate(content, path.parent)
    return make_spec(str(path), **{**content, **changes})


def make_spec(where: str = "run", **content: Any) -> RunSpec:
    """Validate a run specification.

    Raises:
        SpecError: With the key path, what is wrong, and what was given.
    """
    try:
        return RunSpec.model_validate(content)
    except ValidationError as error:
        raise SpecError(f"{where}: " + "; ".join(_problem(problem) for problem in error.errors())) from None


def _problem(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"]) or "run"
    if problem["type"] == "extra_forbidden":
        return str(UnknownNameError("key", path, _keys_at(problem["loc"][:-1])))
    if problem["type"] == "missing":
        return f"{path}: missing"
    if problem["type"] == "string_unicode" and isinstance(problem["input"], str):
        return f"{path}: {not_text(problem['input'])}"
    return f"{path}: {problem['msg'].removeprefix('Value error, ')}, not {problem['input']!r}"


def _keys_at(path: Sequence[int | str]) -> list[str]:
    """The keys that may stand in one section of a specification, with their path."""
    section: type[BaseModel] = RunSpec
    for part in path:
        annotation = section.model_fields[str(part)].annotation
        choices = get_args(annotation) or (annotation,)
        section = next(one for one in choices if isinstance(one, type) and issubclass(one, BaseModel))
    return [".".join(map(str, (*path, key))) for key in section.model_fields]


def _relocate(content: dict[str, Any], folder: Path) -> None:
    """Make a spec file's relative paths relative to the file."""
    for key in ("model", "reference", "tls"):
        if isinstance(content.get(key), str):
            content[key] = _beside(content[key], folder)
    for key in ("data", "calibration"):
        section = content.get(key)
        if isinstance(section, dict) and isinstance(section.get("source"), str):
            section["source"] = _beside(section["source"], folder)
            if isinstance(section.get("classes"), str):
                section["classes"] = str(folder / section["classes"])
        elif isinstance(section, str):
            content[key] = {"source": _beside(section, folder)}
    settings = content.get("settings")
    for study in studies.names():
        if isinstance(settings, dict) and isinstance(settings.get(study), dict):
            settings[study] = studies.get(study).settings_type.beside(settings[study], folder)
    if isinstance(content.get("profiles"), list):
        content["profiles"] = [
            _beside(name, folder) if isinstance(name, str) and name.endswith(".toml") else name
            for name in content["profiles"]
        ]


def _beside(name: str, folder: Path) -> str:
    is_callable = ":" in name and not (folder / name).exists()
    return name if is_callable else str(folder / name)
