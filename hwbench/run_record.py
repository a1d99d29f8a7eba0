"""Types of the content of ``run.json``, checked when a run is opened: the file may be damaged, edited or untrusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from hwbench.verdict import Outcome

_Object = dict[str, Any]


class _Part(BaseModel):
    """Part of the record: accepts keys of later versions, and converts no types, since the content is used unchanged."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Port(_Part):
    name: str
    dtype: str
    shape: list[int | None]


class _Model(_Part):
    name: str | None = None
    file: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    nodes: int | None = None
    parameters: int | None = None
    inputs: list[_Port] = []
    outputs: list[_Port] = []


class _Calibration(_Part):
    source: str | None = None
    n: int | None = None
    note: str | None = None


class _Spec(_Part):
    metric: str | None = None
    trust_profile: bool = False


class _Data(_Part):
    sha256: str
    source: str | None = None
    n: int | None = None
    labels: bool
    label_note: str | None = None
    calibration: _Calibration | None = None


class _Host(_Part):
    cpu_model: str | None = None
    isa: list[str] = []
    cores_physical: int | None = None
    cores_logical: int | None = None
    memory_mib: int | float | None = None
    kernel: str | None = None
    os: str | None = None
    python: str | None = None
    machine: str | None = None
    limits: _Object = {}


class _Target(_Part):
    kind: str = "local"
    memory_mib: int | None = None
    cpu_quota: float | None = None
    mechanism: str | None = None


class _Ran(_Part):
    device: str | None = None
    versions: dict[str, str] = {}
    isa: list[str] = []
    precision: dict[str, int] = {}
    machine: _Object = {}
    second_factor: str | None = None


class _Profile(_Part):
    summary: str = ""
    backend: str = ""
    status: str
    detail: str = ""
    hint: str = ""
    build: str = ""
    shares_build_with: list[str] = []
    beyond_allowlist: list[str] = []
    asked: _Object = {}
    ran: _Ran = _Ran()
    target: _Target = _Target()
    accept: _Object = {}


class _Verdict(_Part):
    model_config = ConfigDict(extra="forbid", strict=True)
    profile: str
    rule: str
    outcome: Outcome
    limit: float
    study: str
    metric: str
    condition: str = "{}"
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    unit: str = ""
    detail: str = ""


class _Declined(_Part):
    profile: str
    study: str


class _Budget(_Part):
    seconds: float | None = None
    wall_s: float = 0.0
    job_s: dict[str, float] = {}
    declined: list[_Declined] = []


class _Record(_Part):
    hwbench: str | None = None
    state: str
    created: str | None = None
    finished: str | None = None
    spec: _Spec
    fingerprint: _Object = {}
    seed: int
    baseline: str | None = None
    primary: str
    higher_is_better: bool
    task: str | None = None
    host: _Host = _Host()
    packages: dict[str, str] = {}
    model: _Model = _Model()
    reference: _Model = _Model()
    data: _Data
    profiles: dict[str, _Profile]
    verdicts: list[_Verdict]
    budget: _Budget = _Budget()
    repairs: list[str] = []
    warnings: list[str] = []


def problem(record: Mapping[str, Any]) -> str:
    """The first error in a record, with its key path; empty if it is valid."""
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        return f"{path}: {first['msg']}, not {first['input']!r:.80}"
    return ""
