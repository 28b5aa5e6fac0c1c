"""The command line. Nothing heavy is imported before a command needs it, so that `x402 --help` answers at once."""

from __future__ import annotations


def main() -> None:
    """The console script `x402`: runs the command that was typed, then exits with its code (`cli.failures`)."""
    from x402.cli.app import app

    app(prog_name="x402")
