"""The command line: one module per command, loaded when the command is used."""

from hwbench.cli.main import main

__all__ = ["main"]
