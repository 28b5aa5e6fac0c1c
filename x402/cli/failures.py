"""Every failure as three sentences: what happened, whether money moved, and what to type next.

Exit codes, by class of error: 1 the books don't agree, 2 what was typed can't be used, 3 settings, 4 our own policy
refused to sign, 5 the seller refused the payment, 6 the payment may still land, 7 out of reach, 8 the payment belongs
to another request, 9 the seller's own error, 130 interrupted.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from x402.cli.screen import err, shown, wants_json, write_json
from x402.errors import (
    ApiError,
    ConflictError,
    DeclinedError,
    MalformedError,
    MisconfiguredError,
    Moved,
    PendingError,
    RefusedError,
    UnavailableError,
    UnpaidError,
    X402Error,
)

BOOKS_DISAGREE = 1
OTHER = 9
INTERRUPTED = 130

_EXIT_CODES: tuple[tuple[type[X402Error], int], ...] = (
    (MalformedError, 2),
    (MisconfiguredError, 3),
    (DeclinedError, 4),
    (UnpaidError, 5),
    (RefusedError, 5),
    (PendingError, 6),
    (UnavailableError, 7),
    (ConflictError, 8),
    (ApiError, 9),
)

_MOVED = {
    Moved.NO: "No money moved.",
    Moved.YES: "Money moved: the payment was taken.",
    Moved.UNKNOWN: "Money may have moved; nobody can say yet.",
}

_NEXT_BY_CODE = {
    "no_wallet": "x402 wallet new      (or set X402_WALLET_FILE, X402_EVM_PRIVATE_KEY, X402_SVM_PRIVATE_KEY)",
    "no_base_url": "x402 devnet up      (then use the X402_BASE_URL that it prints)",
    "no_signer": "x402 facilitator --help      (keys come from the environment, never from the command line)",
    "no_upstream": "x402 gateway --help      (says which variables name the model server)",
    "no_pay_to": "x402 gateway --help      (says where the addresses go)",
    "wallet_file_exists": "x402 wallet new --file another-wallet.toml",
    "mainnet_refused": "the same command with --mainnet, if real money is meant",
    "extra_missing": 'pip install "x402-engine[all]"',
    "price_above_limit": "the same command with a higher --max, if the price is right: x402 quote shows its lines",
    "amount_exceeds_cap": "the same command with a higher --max, if the price is right: x402 quote shows its lines",
    "budget_exceeded": "the same command later, or with a higher X402_MAX_PER_DAY",
    "host_suspended": "x402 resolve      (which of the payments moved money), or the same calls again, or wait",
    "payee_changed": "x402 trust HOST ADDRESS, if the seller itself says that the address is its own",
    "unproven_payment": "x402 resolve --rpc NETWORK=URL      (asks the chain again)",
    "model_not_found": "x402 models",
    "no_node": "x402 resolve --rpc NETWORK=URL",
    "port_taken": "the same command with another --port",
    "state_in_use": "the same command with another --state directory",
    "unrecognised": "x402 inspect --help      (lists what it can read)",
}

_NEXT_BY_CLASS: tuple[tuple[type[X402Error], str], ...] = (
    (MalformedError, "the same command with --help"),
    (MisconfiguredError, "the same command with --help, which names its settings"),
    (DeclinedError, "x402 quote      (shows every offer and why it was not taken)"),
    (UnpaidError, "the same command: it presents the same payment again and signs no second one"),
    (RefusedError, "the same command, for a fresh challenge"),
    (PendingError, "the same command in a few seconds: it presents the same payment again and pays once"),
    (UnavailableError, "the same command in a few seconds; nothing was handed over"),
    (ConflictError, "the same command in a few seconds"),
    (ApiError, "x402 models      (what is sold), or the same command again"),
)


def exit_code(error: X402Error) -> int:
    """The process's exit code for an error."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), OTHER)


def next_step(error: X402Error) -> str:
    """What to type next."""
    codes = [error.code, *(str(offer.get("code")) for offer in _offers(error))]
    by_code = next((_NEXT_BY_CODE[code] for code in codes if code in _NEXT_BY_CODE), "")
    by_class = next((words for kind, words in _NEXT_BY_CLASS if isinstance(error, kind)), "the same command again")
    return by_code or by_class


def report(error: X402Error, *, as_json: bool) -> None:
    """Tell a person, on standard error, or a program, on standard output."""
    if as_json:
        write_json({"error": {**error.as_json(), "next": next_step(error)}})
        return

    console = err()
    offers = _offers(error)
    # The message repeats what the offers say one by one below it.
    words = error.message.partition(": ")[0] if offers else error.message
    console.print(f"[bold red]✗ {shown(words)}[/] [dim]({shown(error.code)})[/]")
    for offer in offers:
        console.print(f"  [dim]·[/] {shown(_offer_words(offer))}")
    console.print(f"  {_MOVED[error.moved]}")
    console.print(f"  [bold]Next:[/] {shown(next_step(error))}")


def _offers(error: X402Error) -> list[dict[str, Any]]:
    offers = error.details.get("offers")
    return [offer for offer in offers if isinstance(offer, dict)] if isinstance(offers, list) else []


def _offer_words(offer: dict[str, Any]) -> str:
    from x402 import networks

    network = networks.find(str(offer.get("network")))
    where = network.title if network else offer.get("network") or "an offer"
    return f"{where}: {offer.get('reason') or offer.get('code') or 'not taken'}"


class Reporting(TyperGroup):
    """The root command: turns our errors into words and an exit code, for every command below it."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except X402Error as error:
            report(error, as_json=wants_json(ctx))
            raise typer.Exit(exit_code(error)) from error
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "x402":
                raise
            missing = MisconfiguredError("extra_missing", f"this command needs {error.name}, which is not installed")
            report(missing, as_json=wants_json(ctx))
            raise typer.Exit(exit_code(missing)) from error
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
