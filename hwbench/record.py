"""What ``run.json`` says of a run before anything is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from hwbench import __version__
from hwbench.backend import Availability, backends
from hwbench.host import describe_host, package_versions
from hwbench.preparation import REFERENCE_PROFILE, Prepared
from hwbench.profile import Profile, TargetSpec
from hwbench.table import Row
from hwbench.targets import sandbox
from hwbench.targets.limits import LimitSupport, mechanism

INTERLEAVED = "interleaved"
"""Key in ``run.json``: the name of the measurement that several runs were launched in, block by block."""
DEATHS = "worker_deaths"
"""Key in ``run.json``: the workers that died, by profile, study, job and variant; absent where none did."""


def first_record(prepared: Prepared) -> dict[str, Any]:
    """The content of ``run.json`` but for the schema version, all profiles pending."""
    spec, limits = prepared.spec, mechanism()
    return {
        "hwbench": __version__,
        "created": now(),
        "finished": None,
        "state": "running",
        "spec": spec.model_dump(mode="json"),
        "fingerprint": prepared.fingerprint,
        "seed": spec.seed,
        "host": {**describe_host(), "limits": asdict(limits), "sandbox": sandbox.describe(not spec.trust_profile)},
        "packages": package_versions(),
        "model": prepared.model.describe(),
        "reference": prepared.reference.describe(),
        "task": prepared.task,
        "primary": prepared.metrics[0].name,
        "higher_is_better": prepared.metrics[0].higher_is_better,
        "data": {
            "source": prepared.data.source,
            "n": prepared.data.n,
            "sha256": prepared.data.key,
            "labels": prepared.data.labels is not None,
            "label_note": prepared.data.label_note,
            "classes": _class_map(prepared),
            "calibration": {
                "source": prepared.calibration.source,
                "n": prepared.calibration.n,
                "note": prepared.calibration_note,
            },
        },
        "profiles": {
            profile.name: {
                "summary": profile.summary,
                "backend": profile.backend,
                "status": "pending",
                "detail": "",
                "hint": "",
                "build": "",
                "asked": {
                    **profile.precision.model_dump(mode="json"),
                    "computes_in": backends.get(profile.backend)().float_precision(profile.full_options),
                    "options": profile.full_options,
                },
                "beyond_allowlist": sorted(profile.beyond_allowlist),
                "ran": {},
                "target": {**profile.target.model_dump(mode="json"), **_enforced(profile.target, limits)},
                "accept": profile.accept.model_dump(mode="json", exclude_none=True),
            }
            for profile in prepared.profiles
        },
        "warnings": [],
        "verdicts": [],
        "repairs": [],
        "budget": {"seconds": spec.budget, "wall_s": 0.0, "job_s": {}, "declined": []},
    }


def chance_warning(prepared: Prepared, rows: Iterable[Row]) -> list[str]:
    """A warning where the reference's top-1 is not above chance: its labels are then hardly the model's.

    Args:
        prepared: The run.
        rows: Those of the reference's accuracy.
    """
    classes = (
        next(one.shape[1] for one in prepared.model.outputs if one.name == prepared.output)
        if prepared.classifies
        else None
    )
    top1 = next(
        (row for row in rows if row.metric == "top1" and row.condition == "{}" and row.ci_low is not None), None
    )
    if not classes or top1 is None or top1.value is None or top1.ci_low is None or top1.ci_low > 1 / classes:
        return []
    return [
        f"The reference's top-1 accuracy, {top1.value:.3f} [{top1.ci_low:.3f}, {top1.ci_high:.3f}] on {top1.n} inputs, is "
        f"not above chance ({1 / classes:.2g} for {classes} classes), so the accuracy figures below mean little. Check the "
        "order of the classes, the labels and the preprocessing."
    ]


def _class_map(prepared: Prepared) -> str:
    """The origin of the class folders' numbers; empty for other data."""
    classes = prepared.spec.data.classes
    if isinstance(classes, str):
        return f"class numbers of folders from {classes}"
    if classes is not None:
        return f"class numbers of {len(classes)} folders as given"
    return "" if prepared.data.counted is None else "folders in alphabetical order"


def found_there(
    profile: Profile, device: str, found: Availability, machine: Mapping[str, Any], here: Mapping[str, str]
) -> dict[str, Any]:
    """What a profile's target turned out to be, for its ``ran``.

    Args:
        profile: The profile.
        device: The backend's device.
        found: What the backend's probe told there.
        machine: What the target tells of itself.
        here: Package versions on this machine, on which the reference runs.
    """
    ran = {"device": device, "versions": dict(found.versions), "isa": list(found.isa)}
    if machine:
        ran["machine"] = dict(machine)
    runtime = backends.get(REFERENCE_PROFILE.backend).runtime
    ours, theirs = found.versions.get(runtime), here.get(runtime) or here.get(f"{runtime}-gpu")
    # Where another runtime is what the profile is about, its version is no second factor.
    if profile.target.kind != "local" and profile.backend == REFERENCE_PROFILE.backend and ours != theirs:
        ran["second_factor"] = f"second factor: {runtime} {ours}, the reference's is {theirs}"
    return ran


def with_factor(row: Row, ran: Mapping[str, Any]) -> Row:
    """A profile's row, its detail saying the second factor where it compares the whole build with the reference."""
    if "second_factor" not in ran or row.study not in ("accuracy", "fidelity") or row.condition != "{}":
        return row
    return with_note(row, ran["second_factor"])


def with_note(row: Row, note: str) -> Row:
    """A row whose detail also says ``note``."""
    return replace(row, detail="; ".join(part for part in (row.detail, note) if part))


def _enforced(target: TargetSpec, limits: LimitSupport) -> dict[str, str]:
    """By what this machine holds a profile's jobs to their limits."""
    how = limits.memory if target.memory_mib is not None else limits.cpu if target.cpu_quota is not None else ""
    return {"mechanism": how} if how and target.kind == "local" else {}


def finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity; an unbounded interval is written as null."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in record.items()
    }


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
