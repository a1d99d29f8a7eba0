"""``--plan``: what a run would do, printed instead of done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench.cli.console import console, print_json

if TYPE_CHECKING:
    from hwbench.spec import RunSpec


def show_plan(spec: RunSpec, *, as_json: bool) -> None:
    """Print builds, jobs, passes over the inputs and an estimate of the time."""
    from rich.table import Table

    from hwbench.durations import format_duration
    from hwbench.outlook import look_ahead
    from hwbench.preparation import prepare

    with prepare(spec) as prepared:
        outlook = look_ahead(prepared)
    if as_json:
        print_json(outlook.to_json())
        return
    table = Table("profile", "build", "study", "jobs", "passes", "inputs run", "about")
    for profile in outlook.profiles:
        name, build = profile.profile, profile.build
        if profile.build_s:
            build = f"{build}, about {format_duration(profile.build_s)}"
        for study in profile.studies:
            about = "unknown" if study.seconds is None else format_duration(study.seconds)
            least = "≥ " * study.open
            table.add_row(
                name, build, study.study, f"{least}{study.jobs:,}", f"{study.passes:,}", f"{study.inputs:,}", about
            )
            name = build = ""
        if not profile.studies:
            table.add_row(name, build)
    out = console()
    out.print(table)
    for profile in outlook.profiles:
        if profile.detail:
            out.print(f"{profile.profile}: {profile.detail}", highlight=False, markup=False, soft_wrap=True)
    out.print(outlook.summary, highlight=False, markup=False, soft_wrap=True)
