"""The watch over the event loop: what waits for a disk, a lock or a line in code of ours fails where it waits (C16).

It judges by what is called, not by a clock, so it says the same on a slow machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import ClassVar

import blockbuster.blockbuster as judge
from blockbuster import BlockBuster, BlockingError

OF_ONE_THREAD = [
    "x402.cli", "x402.devnet", "x402.client.journal", "x402.client.journal_file", "x402.client.proof",
    "x402.ports.ledger_reading", "x402.ports.account_reading", "x402.ports.audit", "x402.ports.account_audit",
    "x402.ports.migrations", "x402.evidence.books", "x402.evidence.holdings",
]  # fmt: skip
"""What commands and readers use outside of any loop, and tests from anywhere. Services that called it would be found:
they are on the stack as well."""

ALLOWED = [
    # Before the first request.
    ("x402/gateway/app.py", "create_app"), ("x402/gateway/paywall.py", "__init__"),
    ("x402/gateway/api/operations.py", "seal_of"), ("x402/gateway/inference/shelf.py", "__init__"),
    ("x402/facilitator/service.py", "create_app"),
    # Libraries, one time only: where a route was written, modules, what to tell a new connection of oneself.
    ("fastapi/routing.py", "_extract_endpoint_context"), ("<frozen importlib._bootstrap>", "_find_and_load"),
    ("redis/driver_info.py", "__post_init__"),
    # What is told to whoever runs it goes to standard error, as everybody's does.
    ("logging/__init__.py", "emit"),
    # Tests call commands and the synchronous client from where a loop happens to run.
    ("x402/cli/failures.py", "invoke"), ("x402/client/auth.py", "sync_auth_flow"),
]  # fmt: skip


class HeldUpError(BlockingError):
    """Where a loop was held up. It is remembered, because whom it is raised in may take it for a failure of his own."""

    seen: ClassVar[list[str]] = []

    def __init__(self, called: str) -> None:
        super().__init__(called)
        self.seen.append(called)


@cache
def _watch() -> BlockBuster:
    judge.BlockingError = HeldUpError  # type: ignore[assignment,misc]
    watch = BlockBuster("x402", excluded_modules=OF_ONE_THREAD)
    for function in watch.functions.values():
        for file, name in ALLOWED:
            function.can_block_in(file, name)
    return watch


@contextmanager
def unblocked() -> Iterator[list[str]]:
    """Until it ends, `HeldUpError` is raised where our code would hold up a loop; the list tells with which calls."""
    watch = _watch()
    HeldUpError.seen.clear()
    watch.activate()
    try:
        yield HeldUpError.seen
    finally:
        watch.deactivate()
