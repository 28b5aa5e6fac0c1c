"""`x402 proxy` as a process: a program of OpenAI's API pays without knowing it (aimo row 94)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai

from tests.cli.conftest import LiveTown, end, run, spawn


@contextmanager
def proxy(live_town: LiveTown, directory: Path, *options: str) -> Iterator[str]:
    """A proxy of the town's gateway on a free port; yields its base URL."""
    journal = {"X402_JOURNAL": str(directory / "journal.sqlite")}
    process = spawn("proxy", "--port", "0", *options, env={**os.environ, **live_town.environment, **journal})
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "proxy" in line, line + process.stderr.read()
        yield next(word for word in line.split() if word.startswith("http://"))
    finally:
        end(process)


def test_row_094_the_stock_package_pays_through_the_proxy_and_stays_within_its_limits(
    live_town: LiveTown, tmp_path: Path
) -> None:
    with proxy(live_town, tmp_path, "--max", "0.01", "--max-day", "0.02") as url:
        with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as sdk:
            assert "demo/echo-1" in [model.id for model in sdk.models.list()]
            answer = sdk.chat.completions.create(
                model="demo/echo-1", messages=[{"role": "user", "content": "Hello proxy"}], max_tokens=20
            )
            assert "Hello proxy" in str(answer.choices[0].message.content)
            stream = sdk.chat.completions.create(
                model="demo/story-1", messages=[{"role": "user", "content": "Hi"}], max_tokens=9, stream=True
            )
            told = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
            assert len(told.split()) >= 6
            dear = {
                "model": "demo/story-1",
                "messages": [{"role": "user", "content": "Hi"}],
                "max_tokens": 8000,
                "n": 8,
            }
            refused = httpx.post(f"{url}/chat/completions", json=dear, timeout=30, trust_env=False)
        assert (refused.status_code, refused.json()["error"]["moneyMoved"]) == (402, "no")
        page = httpx.get(f"{url}/models", headers={"Origin": "https://evil.test"}, trust_env=False)
        assert page.status_code == 403
    used = run("usage", "--json", X402_JOURNAL=str(tmp_path / "journal.sqlite"))
    assert used.exit_code == 0, used.output
    assert '"payments": 2' in used.stdout


def test_an_open_proxy_needs_a_key(live_town: LiveTown) -> None:
    result = run("proxy", "--host", "0.0.0.0", "--port", "0", **live_town.environment)
    assert result.exit_code == 3
    assert "X402_PROXY_KEY" in result.stderr
