from __future__ import annotations

from hwbench.cli.console import console


def test_on_a_pipe_no_table_is_cut(capsys):
    from rich.table import Table

    table = Table("a", "b")
    table.add_row("x" * 70, "y" * 70)
    console().print(table)
    assert f"{'x' * 70} │ {'y' * 70}" in capsys.readouterr().out
