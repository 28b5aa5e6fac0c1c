"""`x402 models`, `list` and `search`: a seller's shelf (aimo rows 72, 95)."""

from __future__ import annotations

import json

from tests.cli.conftest import LiveTown, run


def test_row_095_models_are_listed_as_the_seeds_tool_does(live_town: LiveTown) -> None:
    for words in (("models",), ("models", "list")):
        result = run(*words, **live_town.environment)
        assert result.exit_code == 0, result.output
        for part in ("demo/echo-1", "demo/story-1", "0.5", "1.5", "free"):
            assert part in result.stdout
        listed = json.loads(run(*words, "--json", **live_town.environment).stdout)
        assert {"demo/echo-1", "demo/story-1", "demo/free-1"} <= {model["id"] for model in listed}


def test_row_095_models_are_searched(live_town: LiveTown) -> None:
    result = run("models", "search", "story", "--json", "--base-url", live_town.urls["chat"])
    assert [model["id"] for model in json.loads(result.stdout)] == ["demo/story-1"]
    result = run("models", "search", "nothing-of-this-name", "--base-url", live_town.urls["chat"])
    assert (result.exit_code, "no such model" in result.stdout) == (0, True)


def test_models_are_filtered_by_the_seller(live_town: LiveTown) -> None:
    free = json.loads(run("models", "list", "--free", "--json", **live_town.environment).stdout)
    assert [model["id"] for model in free] == ["demo/free-1"]
    result = run("models", "list", "--capability", "flight", **live_town.environment)
    assert result.exit_code == 9


def test_a_seller_has_to_be_named() -> None:
    result = run("models")
    assert result.exit_code == 3
    assert "X402_BASE_URL" in result.stderr
