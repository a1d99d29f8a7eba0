"""``hwbench profiles``: list the shipped profiles, explain one, or print the schema."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hwbench.cli.console import console, print_json
from hwbench.cli.options import Json, TrustProfile


def command(
    name: Annotated[str | None, typer.Argument(help="A profile's name or path.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of a profile file.")] = False,
    trust_profile: TrustProfile = False,
    as_json: Json = False,
) -> None:
    """List the shipped profiles, show one with all its settings, or print the JSON Schema."""
    from rich.markup import escape
    from rich.table import Table

    from hwbench.profile import load_profile, profile_names, profile_schema

    if schema:
        print_json(profile_schema())
        return
    if name is not None:
        profile = load_profile(name, trusted=trust_profile)
        content = {**profile.model_dump(mode="json", exclude_none=True), "options": profile.full_options}
        if as_json:
            print_json(content)
            return
        table = Table("setting", "value", title=escape(f"{profile.name}: {profile.summary}"), title_justify="left")
        for key, value in _flat(content):
            table.add_row(escape(key), escape(value))
        console().print(table)
        return
    listed = [load_profile(known) for known in profile_names()]
    if as_json:
        print_json(
            [
                {"name": one.name, "backend": one.backend, "format": one.precision.format, "summary": one.summary}
                for one in listed
            ]
        )
        return
    table = Table("profile", "backend", "format", "summary")
    for one in listed:
        table.add_row(one.name, one.backend, one.precision.format, one.summary)
    console().print(table)


def _flat(content: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}.")
        elif prefix or key not in ("name", "summary"):
            found.append((f"{prefix}{key}", json.dumps(value)))
    return found
