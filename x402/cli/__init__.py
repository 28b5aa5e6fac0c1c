"""The command line. Nothing heavy is imported before a command needs it, so that `x402 --help` answers at once."""

from __future__ import annotations

import gc
import sys

_GARBAGE_AT = 250_000
"""How many objects more than were let go are looked through for garbage; Python's own 700 suit a script."""


def main() -> None:
    """The console script `x402`: runs the command that was typed, then exits with its code (`cli.failures`)."""
    # What is imported stays, and looking through it for garbage took a fifth of the start of a server.
    gc.set_threshold(_GARBAGE_AT)
    from x402.cli.app import only

    only(sys.argv[1] if len(sys.argv) > 1 else "")(prog_name="x402")
