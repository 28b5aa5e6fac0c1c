"""Errors say what happened, whether money moved and what to type next, and the exit code says the class."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from x402.cli.failures import INTERRUPTED, Reporting, exit_code, next_step
from x402.cli.screen import AsJson
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

ERRORS: list[tuple[X402Error, int, str]] = [
    (MalformedError("invalid_json", "no JSON"), 2, "No money moved."),
    (MisconfiguredError("invalid_settings", "a bad setting"), 3, "No money moved."),
    (DeclinedError("unknown_asset", "an unknown token"), 4, "No money moved."),
    (UnpaidError("invalid_payload", "refused"), 5, "Money may have moved"),
    (UnpaidError("paid_and_asked_again", "taken", moved=Moved.YES), 5, "Money moved"),
    (RefusedError("invalid_payload", "refused"), 5, "No money moved."),
    (PendingError("waiting"), 6, "Money may have moved"),
    (UnavailableError("node_unavailable", "no node"), 7, "No money moved."),
    (ConflictError("payment_already_used", "taken"), 8, "No money moved."),
    (ApiError(500, "internal_error", "a broken seller"), 9, "No money moved."),
]


def failing(error: BaseException) -> typer.Typer:
    app = typer.Typer(cls=Reporting)

    @app.command()
    def fail(as_json: AsJson = False) -> None:
        raise error

    @app.command()
    def other() -> None: ...

    return app


@pytest.mark.parametrize(("error", "code", "moved"), ERRORS, ids=lambda value: type(value).__name__)
def test_three_sentences_and_an_exit_code(error: X402Error, code: int, moved: str) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exit_code == exit_code(error) == code
    assert result.stdout == ""
    words = " ".join(result.stderr.split())
    assert error.message in words
    assert moved in words
    assert f"Next: {' '.join(next_step(error).split())}" in words


def test_programs_get_the_error_as_json() -> None:
    error = UnavailableError("node_unavailable", "no node")
    result = CliRunner().invoke(failing(error), ["fail", "--json"])
    told = json.loads(result.stdout)["error"]
    assert (result.exit_code, result.stderr) == (7, "")
    assert (told["code"], told["moneyMoved"]) == ("node_unavailable", "no")
    assert told["next"] == next_step(error)


def test_each_offer_that_was_left_is_told_once_with_its_reason() -> None:
    offers = [{"network": "eip155:84532", "code": "price_above_limit", "reason": "it asks for too much"}]
    error = DeclinedError("no_acceptable_offer", "no offer was taken: too much", details={"offers": offers})
    words = CliRunner().invoke(failing(error), ["fail"]).stderr
    assert "Base Sepolia: it asks for too much" in words
    assert words.count("too much") == 1
    assert "--max" in next_step(error)


def test_a_missing_extra_names_what_to_install() -> None:
    result = CliRunner().invoke(failing(ModuleNotFoundError("no", name="fastapi")), ["fail"])
    assert result.exit_code == 3
    assert "x402-engine[all]" in result.stderr


def test_a_defect_of_ours_is_not_dressed_up() -> None:
    result = CliRunner().invoke(failing(ModuleNotFoundError("no", name="x402.nowhere")), ["fail"])
    assert isinstance(result.exception, ModuleNotFoundError)


def test_interruption_is_130() -> None:
    assert CliRunner().invoke(failing(KeyboardInterrupt()), ["fail"]).exit_code == INTERRUPTED
