"""Profiles: TOML files that name a deployment target, validated with the key path in every message."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from hwbench.allowlist import beyond_allowlist
from hwbench.backend import backends
from hwbench.bounds import BLOCK, INPUTS, LEAST_QUOTA, MEMORY_MIB, PROCESSORS
from hwbench.errors import ProfileError, UnknownNameError
from hwbench.toml import parse_toml, read_toml
from hwbench.worker.protocol import Limits

_MAX_PARENTS = 32
_LONGEST_NAME = 200
"""Bytes of a profile's name; file systems take 255 in a component, and endings are added."""

Format = Literal["fp32", "fp16", "bf16", "int8", "int4", "as-is"]


class _Section(BaseModel):
    # TOML has types of its own: "256" is no number, and a limit of nan would hold nothing.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Calibration(_Section):
    """How activation ranges are found."""

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    samples: int = Field(256, gt=0, le=INPUTS, description="inputs used, at most")
    percentile: float = Field(99.99, gt=50, le=100, description="for method = 'percentile'")


class Precision(_Section):
    """What numbers the build holds."""

    format: Format = "fp32"
    quantizer: Literal["onnxruntime", "nncf"] = "onnxruntime"
    dynamic: bool = Field(False, description="int8 only: activation ranges computed at run time; no calibration")
    activations: Literal["u8", "s8"] = Field("u8", description="s8 is symmetric")
    weights: Literal["u8", "s8"] = "s8"
    per_channel: bool = True
    reduce_range: bool = Field(False, description="7-bit weights, safe on x86 without VNNI")
    quantize_bias: bool = Field(True, description="biases as int32; TensorRT wants them left in float")
    block_size: int = Field(32, ge=16, le=BLOCK, description="int4 only: weights per scale, a power of two")
    calibration: Calibration = Calibration()

    @model_validator(mode="after")
    def _consistent(self) -> Precision:
        if self.dynamic and self.format != "int8":
            raise ValueError("dynamic = true goes with format = 'int8' only")
        if self.dynamic and self.quantizer != "onnxruntime":
            raise ValueError("dynamic = true is a mode of quantizer = 'onnxruntime'")
        if self.quantizer == "nncf" and self.format != "int8":
            raise ValueError("quantizer = 'nncf' goes with format = 'int8' only")
        if self.quantizer == "nncf" and (
            self.weights != "s8"
            or not self.per_channel
            or not self.quantize_bias
            or self.calibration.method != "minmax"
        ):
            raise ValueError(
                "quantizer = 'nncf' chooses weights, per_channel, quantize_bias and the calibration method itself"
            )
        if self.block_size & (self.block_size - 1):
            raise ValueError("block_size must be a power of two")
        return self

    @property
    def needs_calibration(self) -> bool:
        """Whether making this build takes calibration data."""
        return self.format == "int8" and not self.dynamic


class TargetSpec(_Section):
    """The machine a build runs on."""

    kind: Literal["local", "emulated", "remote"] = "local"
    resource: str | None = Field(
        None, pattern=r"^\w[\w.-]*$", max_length=200, description="remote only: the resource of the board's Dask worker"
    )
    arch: Literal["x86_64", "aarch64"] | None = Field(None, description="emulated only: the instruction set")
    cpu: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$",
        max_length=200,
        description="emulated only: the processor model, as QEMU calls it",
    )
    memory_mib: int | None = Field(None, gt=0, le=MEMORY_MIB, description="enforced on the worker's whole process tree")
    cpu_quota: float | None = Field(None, ge=LEAST_QUOTA, le=PROCESSORS, description="cores' worth of processor time")
    processors: list[Annotated[int, Field(ge=0, lt=PROCESSORS)]] | None = Field(
        None, min_length=1, max_length=PROCESSORS, description="numbers of the processors that it may run on"
    )

    @model_validator(mode="after")
    def _consistent(self) -> TargetSpec:
        if (self.kind == "remote") != (self.resource is not None):
            raise ValueError("kind = 'remote' and resource = 'NAME' go together")
        if self.kind == "emulated":
            if self.arch is None or not self.cpu:
                raise ValueError("kind = 'emulated' needs arch and cpu")
            if self.memory_mib is not None or self.cpu_quota is not None or self.processors is not None:
                raise ValueError(
                    "kind = 'emulated' takes no memory_mib, cpu_quota or processors: they would hold the emulator"
                )
        elif self.arch is not None or self.cpu is not None:
            raise ValueError("arch and cpu go with kind = 'emulated' only")
        return self

    @property
    def machine(self) -> dict[str, str]:
        """Which machine it is, without the limits: the arguments of `hwbench.targets.open_target`."""
        return self.model_dump(mode="json", exclude={"memory_mib", "cpu_quota", "processors"}, exclude_none=True)

    def limits(self, timeout_s: float) -> Limits:
        """What its jobs are held to."""
        processors = tuple(sorted(set(self.processors))) if self.processors is not None else None
        return Limits(self.memory_mib, self.cpu_quota, timeout_s, processors)


class Accept(_Section):
    """Acceptance rules; every one that is set becomes a verdict."""

    max_accuracy_drop: float | None = Field(None, description="loss of the primary metric against the reference")
    min_accuracy: float | None = Field(None, description="of the primary metric, where higher is better")
    min_top1_agreement: float | None = None
    min_sqnr_db: float | None = None
    min_worst_slice_sqnr_db: float | None = Field(
        None, description="of the worst part of any output; default without labels: 4"
    )
    max_sqnr_loss_db: float | None = Field(None, description="on the worst of the portability study's targets")
    max_p50_ms: float | None = None
    max_p90_ms: float | None = None
    max_p99_ms: float | None = None
    min_samples_per_s: float | None = None
    max_peak_mib: float | None = None
    max_model_mib: float | None = None
    min_tolerated_ber: float | None = None
    max_sdc_rate: float | None = Field(None, description="of single stored-bit faults")
    max_due_rate: float | None = Field(None, description="of single stored-bit faults")
    as_asked: bool = Field(True, description="fail where a node silently ran elsewhere or in another precision")


class Profile(_Section):
    """A deployment target: backend, precision, options, machine, limits, acceptance."""

    name: str = Field("", description="set from the file's name")
    summary: str = Field("", pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$", max_length=2000)
    backend: str
    precision: Precision = Precision()
    options: dict[str, Any] = Field(default_factory=dict, description="the backend's own schema")
    target: TargetSpec = TargetSpec()
    accept: Accept = Accept()

    @cached_property
    def full_options(self) -> dict[str, Any]:
        """The backend's options with its defaults filled in, as JSON values.

        Raises:
            ProfileError: An option is unknown or has a wrong value.
        """
        options_type = backends.get(self.backend).options_type
        adapter: TypeAdapter[Any] = TypeAdapter(options_type)
        try:
            options: dict[str, Any] = adapter.dump_python(adapter.validate_python(self.options), mode="json")
        except ValidationError as error:
            known = [f"options.{field.name}" for field in fields(options_type)]
            raise ProfileError(_explain(self.name, error, ("options",), known)) from None
        return options

    @cached_property
    def beyond_allowlist(self) -> dict[str, str]:
        """Key path of each option that only a trusted profile may set, to the reason."""
        return beyond_allowlist(backends.get(self.backend).options_type, self.full_options)


def load_profile(name: str, *, trusted: bool = False) -> Profile:
    """Load a shipped profile by name, or a user's by path (``*.toml``).

    Args:
        name: A name that `profile_names` lists, or a path.
        trusted: Let it set options beyond the backend's allowlist, which may write files and load code.

    Raises:
        UnknownNameError: No profile of that name.
        ProfileError: The file is missing, badly named, not TOML, or does not validate.
    """
    label = _label(name)
    content = _read(name, seen=())
    if "name" in content:
        raise ProfileError(f"profile {name}: name: a profile is named by its file; remove the key")
    try:
        profile = Profile.model_validate({**content, "name": label})
    except ValidationError as error:
        raise ProfileError(_explain(name, error)) from None
    try:
        backends.reference(profile.backend)
    except UnknownNameError as error:
        raise ProfileError(f"profile {name}: backend: {error}") from None
    _contradictions(profile)
    _ = profile.full_options
    if profile.beyond_allowlist and not trusted:
        problems = "; ".join(f"{path}: {reason}" for path, reason in profile.beyond_allowlist.items())
        raise ProfileError(
            f"profile {name}: {problems}; if you trust this profile with your files, use --trust-profile "
            "(trust_profile in a specification)"
        )
    return profile


def _label(name: str) -> str:
    """A profile's own name, which is that of its file and becomes the name of folders."""
    if not name.endswith(".toml"):
        return name
    stem = Path(name).name.removesuffix(".toml")
    if not stem or stem.startswith(".") or not stem.isprintable() or len(stem.encode()) > _LONGEST_NAME:
        raise ProfileError(
            f"profile {name!r}: a profile is named by its file, which must not begin with a dot, hold control characters "
            f"or be longer than {_LONGEST_NAME} bytes; rename it"
        )
    return stem


def profile_names() -> list[str]:
    """The names of the shipped profiles."""
    return sorted(path.name.removesuffix(".toml") for path in _home().iterdir() if path.name.endswith(".toml"))


def profile_schema() -> dict[str, Any]:
    """The JSON Schema of a profile file, for editors."""
    schema = Profile.model_json_schema()
    schema["properties"].pop("name")
    schema["properties"]["extend"] = {"type": "string", "description": "a profile's name or path that this one changes"}
    schema["properties"]["backend"]["enum"] = backends.names()
    schema.pop("required", None)  # a profile that extends another may leave anything out
    schema["title"] = "hwbench profile"
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    options = {}
    for name in backends.names():
        options_type = backends.get(name).options_type
        options[name] = TypeAdapter(options_type).json_schema()
        for field in fields(options_type):
            if "allowed" in field.metadata:
                options[name]["properties"][field.name]["propertyNames"] = {"enum": sorted(field.metadata["allowed"])}
    schema["properties"]["options"]["anyOf"] = list(options.values())
    return schema


def _home() -> Any:
    packaged = files("hwbench").joinpath("_profiles")
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "profiles"


def _read(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if "\0" in name:
        raise ProfileError(f"profile {name!r}: not a valid profile name or path")
    place = os.path.realpath(name) if name.endswith(".toml") else name
    if place in seen:
        raise ProfileError(f"profile {name}: extend: it extends itself ({' -> '.join((*seen, place))})")
    if len(seen) > _MAX_PARENTS:
        raise ProfileError(f"profile {seen[0]}: extend: a chain of more than {_MAX_PARENTS} profiles; merge some")
    content = _content(name)
    parent = content.pop("extend", None)
    if parent is not None:
        if not isinstance(parent, str):
            raise ProfileError(f"profile {name}: extend: takes one profile's name or path, not {parent!r}")
        beside = Path(name).parent / parent if name.endswith(".toml") else None
        base = _read(str(beside) if beside is not None and beside.is_file() else parent, (*seen, place))
        content = _merge(base, content)
    return content


def _content(name: str) -> dict[str, Any]:
    if name.endswith(".toml"):
        return read_toml(Path(name), f"profile {name}", ProfileError)
    if name not in profile_names():
        raise UnknownNameError("profile", name, profile_names())
    return parse_toml(_home().joinpath(f"{name}.toml").read_bytes(), f"profile {name}", ProfileError)


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    if "backend" in change and change["backend"] != base.get("backend"):
        merged.pop("options", None)  # another backend's options would only be refused
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _contradictions(profile: Profile) -> None:
    precision = profile.precision
    if profile.backend == "tensorrt" and precision.format == "int8":
        if precision.dynamic:
            raise ProfileError(
                f"profile {profile.name}: precision.dynamic: TensorRT takes static QDQ only; set dynamic = false"
            )
        if precision.activations != "s8" or precision.weights != "s8":
            raise ProfileError(
                f"profile {profile.name}: precision.activations = {precision.activations!r}: TensorRT's int8 is symmetric; "
                "set activations = 's8' and weights = 's8'"
            )


def _explain(name: str, error: ValidationError, at: tuple[str, ...] = (), keys: Sequence[str] = ()) -> str:
    """One line per problem: key path, what is wrong, what is allowed, what was given."""
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in (*at, *problem["loc"])) or "profile"
        if problem["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
            known = keys or _keys_at(tuple(str(part) for part in problem["loc"][:-1]))
            lines.append(str(UnknownNameError("key", path, known)))
        elif problem["type"] == "missing":
            lines.append(f"{path}: missing")
        else:
            wrong = problem["msg"].removeprefix("Value error, ")
            key = f"{path}.{wrong.partition(' ')[0]}"
            if key in keys:  # an options class refuses the value of one of its fields itself
                lines.append(f"{key}: {wrong.partition(' ')[2]}")
            else:
                lines.append(f"{path}: {wrong}, not {json.dumps(problem['input'], default=str)}")
    return f"profile {name}: " + "; ".join(lines)


def _keys_at(path: tuple[str, ...]) -> list[str]:
    model: Any = Profile
    for part in path:
        model = model.model_fields[part].annotation
    prefix = "".join(f"{part}." for part in path)
    return [f"{prefix}{key}" for key in model.model_fields if key != "name"]
