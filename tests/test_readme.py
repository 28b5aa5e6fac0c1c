"""Every example in README.md and in docs/ runs as it stands there, in a town of its own.

A page's blocks run in their order and share what the page says so far, as they do for a reader who types them in. A
block that can't be run carries `<!-- not run: reason -->` before it. An app that a block leaves behind is served, and
`SHOP` is its URL from then on; a service that a block starts must get ready, and a gateway must sell.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import pytest

from x402 import ApiError, Chat, Wallet
from x402.devnet.town import FUEL_WEI, Town
from x402.devnet.town_serving import listen, serving
from x402.facilitator.signer import EvmSigner
from x402.lifecycle import Outcome
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET

ROOT = Path(__file__).resolve().parent.parent
MADE = ("interop.md",)
"""Pages that a program makes, whose own tests run the commands that they name."""
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in MADE)]
RUNNABLE = ("python", "sh")
PICTURES = ("", "mermaid")
SECONDS = 60

_FENCE = re.compile(r"^```(\w*)$")
_NOT_RUN = re.compile(r"^<!-- not run: \S.* -->$")
_OURS = re.compile(r"^(?:X402_|EVM_|SVM_|SOLANA_|AIMO_|OPENAI_|FACILITATOR_|BLOCKRUN_)")
_PORT = re.compile(r"(_PORT=)\d+")
_SERVICE = re.compile(r"(gateway|facilitator) .* at (http://127\.0\.0\.1:\d+)")

T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """One fenced block: where its first line stands, and whether a comment excuses it."""

    page: Path
    line: int
    language: str
    text: str
    excused: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    opened: tuple[int, str] | None = None
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if opened is None:
            opened = (number, fence[1])
            continue
        start, language = opened
        assert not fence[1], f"{page.name}:{number}: a block within a block"
        before = next((text for text in reversed(lines[: start - 1]) if text.strip()), "")
        text = "\n".join(lines[start : number - 1]) + "\n"
        found.append(Block(page, start + 1, language, text, bool(_NOT_RUN.match(before))))
        opened = None
    assert opened is None, f"{page.name}: a block that does not end"
    return found


class TownOnThread:
    """A town on a loop and a thread of its own, so that blocking examples can talk to it."""

    def __init__(self) -> None:
        self.town = Town()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="town")
        self._running = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        self.now(self._running.enter_async_context(self.town))
        return self

    def __exit__(self, *_: object) -> None:
        self.now(self._running.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def now(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)


class Shops:
    """Apps that are served beside the town until the block ends."""

    def __init__(self, town: TownOnThread) -> None:
        self._town = town
        self._open = AsyncExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._town.now(self._open.aclose())

    def open(self, app: Any) -> str:
        """The URL of an app that is served from now on."""
        return self._town.now(self._open.enter_async_context(serving(app, listen())))


@dataclass
class Reader:
    """Somebody who reads a page and types in what it says, in an empty folder."""

    town: TownOnThread
    folder: Path
    names: dict[str, str]
    typed: dict[str, Any] = field(default_factory=dict)

    def read(self, page: Path) -> None:
        with Shops(self.town) as shops:
            for block in blocks(page):
                if not block.excused and block.language == "python":
                    self._python(block, shops)
                elif not block.excused and block.language == "sh":
                    self._shell(block)

    def _python(self, block: Block, shops: Shops) -> None:
        self.typed.update(self.names)
        # Blank lines before it, so that a traceback names the line of the page.
        exec(compile("\n" * (block.line - 1) + block.text, str(block), "exec"), self.typed)
        if "Paywall" in block.text:
            self.names["SHOP"] = shops.open(self.typed["app"])

    def _shell(self, block: Block) -> None:
        if "curl" in block.text and shutil.which("curl") is None:
            return
        log = self.folder / f"line-{block.line}.log"
        # A page names a port that a reader finds free; here any free one is taken.
        text = _PORT.sub(r"\g<1>0", block.text)
        with log.open("w") as output:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", text], cwd=self.folder, env=os.environ | self.names,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            assert process.wait(SECONDS) == 0, f"{block}: exit code {process.returncode}\n{log.read_text()}"
            if block.text.rstrip().endswith("&"):
                self._check_service(block, log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)

    def _check_service(self, block: Block, log: Path) -> None:
        """A service that was started gets ready; a gateway sells what it lists first."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            said = _SERVICE.search(log.read_text())
            with suppress(httpx.TransportError):
                if said is not None and httpx.get(f"{said[2]}/ready", trust_env=False).status_code == 200:
                    break
            time.sleep(0.1)
        else:
            raise AssertionError(f"{block}: no service got ready\n{log.read_text()}")
        if said[1] == "gateway":
            with Chat(f"{said[2]}/api/v1", wallet=Wallet.from_env(), patience_seconds=8) as chat:
                model = chat.models()[0].id
                answer = chat.create(model=model, messages=[{"role": "user", "content": "hi"}], max_tokens=9)
            assert answer.receipt is not None
            assert answer.receipt.outcome is Outcome.SETTLED


@pytest.fixture(scope="module")
def town() -> Iterator[TownOnThread]:
    with TownOnThread() as running:
        yield running


@pytest.fixture
def reader(town: TownOnThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader with the town's wallet in the environment, and the README's own shop at `URL`."""
    for name in filter(_OURS.match, list(os.environ)):
        monkeypatch.delenv(name)
    urls, seller = town.town.urls, town.town.parties.pay_to
    key = "0x" + secrets.token_hex(32)
    town.now(town.town.evm.fund(EvmSigner(key).address, 0, FUEL_WEI))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    for name, value in {
        "HOME": str(tmp_path),
        "NO_COLOR": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "X402_WALLET_FILE": str(town.town.wallet_file),
        "X402_SVM_RPC_URL": urls.svm_rpc,
        "X402_JOURNAL": str(tmp_path / "journal.sqlite"),
    }.items():
        monkeypatch.setenv(name, value)
    names = {
        "GATEWAY": urls.gateway,
        "FACILITATOR": urls.facilitator,
        "MODEL": urls.model,
        "EVM_RPC": urls.evm_rpc,
        "SVM_RPC": urls.svm_rpc,
        "EVM_KEY": key,
        "PAY_TO": seller[BASE_SEPOLIA],
        "SVM_PAY_TO": seller[SOLANA_DEVNET],
    }
    shop = next(block for block in blocks(PAGES[0]) if "Paywall(" in block.text)
    typed: dict[str, Any] = dict(names)
    exec(compile(shop.text, str(shop), "exec"), typed)
    with Shops(town) as shops:
        yield Reader(town, tmp_path, names | {"URL": shops.open(typed["app"]) + "/report"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs(reader: Reader, page: Path) -> None:
    reader.read(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks(page):
        assert block.language in (*RUNNABLE, *PICTURES), f"{block}: nobody runs a block of {block.language}"
        if block.language == "python":
            ast.parse(block.text)


SELLS_NOTHING = r"""cat > prices.toml <<END
[[models]]
name = "a"
pricing = { prompt = 1, completion = 1 }
params = { api_base = "http://127.0.0.1:9/v1" }
END
export X402_PRICES=prices.toml X402_EVM_PAY_TO=$PAY_TO X402_FACILITATOR_URL=$FACILITATOR X402_GATEWAY_PORT=4033
x402 gateway &
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("```python\nassert GATEWAY == 'elsewhere'\n```\n", "AssertionError"),
        ("```sh\nx402 wallet show --file nowhere.toml\n```\n", "exit code 3"),
        ("```sh\ncat missing | sort\n```\n", "exit code 1"),
        (f"```sh\n{SELLS_NOTHING}```\n", "model_unavailable"),
    ],
)
def test_control_an_example_that_fails_is_noticed(
    reader: Reader, text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = reader.folder / "page.md"
    page.write_text(f"# A page\n\n{text}")
    monkeypatch.setattr("tests.test_readme.ROOT", reader.folder)
    with pytest.raises((AssertionError, ApiError)) as failure:
        reader.read(page)
    assert told in failure.exconly()
    page.write_text(f"# A page\n\n<!-- not run: it fails -->\n{text}")
    reader.read(page)
