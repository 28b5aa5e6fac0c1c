"""Who may import whom: every import statement below `x402/`, nested ones included, against design page §4."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROW_0 = {"errors", "money", "networks"}
ROW_1 = {
    "chain", "lifecycle", "stages", "confirmation",
    "quote", "price", "discount", "signed_quote", "signed_token", "tariff", "chat_order", "prompt_bound", "billing",
    "telemetry", "settings", "operator_settings", "environment", "config_file", "wire",
}  # fmt: skip
ROW_2 = {"schemes", "ports", "evidence"}
PARTIES = {"client", "gateway", "facilitator"}
ROW_4 = {"devnet", "cli", "request_head", "__main__"}
SEATS = {
    "client.auth", "client.chat", "client.chat_stream", "client.sign_in", "client.aimo", "client.proxy",
    "client.stream",
    "gateway.paywall", "gateway.paid", "gateway.app", "gateway.api",
    "facilitator.service", "facilitator.desk", "facilitator.description", "facilitator.remote", "facilitator.line",
}  # fmt: skip
"""Rooms of a party that belong to row 4."""

SAME_ROW = {
    "money": {"errors"},
    "networks": {"errors", "money"},
    "lifecycle": {"stages"},
    "wire": {"lifecycle", "stages", "chain"},
    "evidence": {"schemes", "ports"},
    "settings": {"operator_settings", "environment"},
    "operator_settings": {"config_file", "environment"},
    "discount": {"price"},
    "quote": {"price", "signed_quote", "prompt_bound", "discount"},
    "signed_quote": {"quote", "price", "signed_token", "discount"},
    "tariff": {"quote", "price", "signed_token", "discount"},
    "chat_order": {"quote", "price", "prompt_bound"},
    "prompt_bound": {"price"},
}
"""Which neighbours of its own row a room may import; all others may import none."""

WEB = {
    "fastapi", "starlette", "uvicorn", "httptools", "httpx", "httpx2", "anyio", "aiohappyeyeballs", "websockets",
    "requests", "aiohttp", "openai",
}  # fmt: skip
CHAIN = {
    "web3", "solana", "solders", "coincurve", "sha3", "cryptography", "Crypto",
    "eth_account", "eth_abi", "eth_utils", "eth_keys", "eth",
}  # fmt: skip
STORE = {"alembic", "sqlalchemy", "sqlite3", "aiosqlite", "asyncpg", "psycopg"}
CLOCK = {"time", "random"}
SYSTEM = {
    "os",
    "socket",
    "subprocess",
    "threading",
    "signal",
    "asyncio",
    "pathlib",
    "tempfile",
    "urllib",
    "http",
    "ssl",
}
PYDANTIC = {"pydantic", "pydantic_settings"}
OBSERVERS = {"structlog", "prometheus_client", "opentelemetry", "logging"}
SCREEN = {"typer", "rich"}

NEVER: dict[int, set[str]] = {
    0: WEB | CHAIN | STORE | CLOCK | SYSTEM | PYDANTIC | OBSERVERS | SCREEN,
    1: WEB | CHAIN | STORE | CLOCK | SYSTEM | PYDANTIC | OBSERVERS | SCREEN,
    2: WEB | STORE | CLOCK | SYSTEM | PYDANTIC | OBSERVERS | SCREEN,
    3: WEB | {"web3", "solana"} | STORE | CLOCK | SCREEN | {"eth_tester"},
    4: set(),
}
"""Foreign modules that a row never imports."""

GRANTED: dict[str, set[str]] = {
    # The depth of JSON is bounded by a limit of the whole process, which one thread at a time may lower.
    "wire": {"pydantic", "threading"},
    "settings": PYDANTIC | {"pathlib"},
    "operator_settings": PYDANTIC | {"pathlib"},
    "environment": PYDANTIC,
    "telemetry": OBSERVERS,
    "evidence": {"asyncio"},
    "ports": WEB | CHAIN | STORE | CLOCK | SYSTEM | OBSERVERS,
    "client.wallet": {"os", "pathlib"},
    "client.journal": {"sqlite3"},
    "client.journal_file": {"sqlite3"},
    "gateway.inference": {"httpx"},
}
"""What single rooms may import all the same, each by name."""

AMBIENT = ("os.environ", "os.getenv", "time.time", "datetime.now", "datetime.utcnow", "date.today")
"""Clock and environment are arguments in rows 0 to 3."""


def room_of(module: str) -> str:
    """`x402.wire.challenge` is in room `wire`; rooms of a party are its modules, `client.auth`."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts and parts[0] in PARTIES else (parts[0] if parts else "")


def row_of(room: str) -> int:
    head = room.partition(".")[0]
    rows = ((ROW_0, 0), (ROW_1, 1), (ROW_2, 2), (ROW_4 | SEATS, 4), (PARTIES, 3))
    for names, row in rows:
        if room in names or (head in names and room not in SEATS):
            return row
    raise AssertionError(f"x402/{room} stands in no row of the table; add it to one")


def imports(path: Path, module: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a file imports, wherever in the file the statement stands."""
    tree = ast.parse(path.read_text())
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    nodes = list(ast.walk(tree))
    if module == "x402":
        # The public names are listed for type checkers only.
        typed = [node for node in nodes if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
        exempt = {id(inner) for node in typed for inner in ast.walk(node)}
        nodes = [node for node in nodes if id(node) not in exempt]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, base]).rstrip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield node.lineno, whole if whole in known or not base.startswith("x402") else base
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((node.lineno, str(name.value)) for name in node.args if isinstance(name, ast.Constant))


def forbidden(room: str, target: str) -> bool:
    """Whether a room may not import this module of ours."""
    other = room_of(target)
    if not other or other == room or room == "":
        return room == ""
    row, other_row = row_of(room), row_of(other)
    party, other_party = room.partition(".")[0], other.partition(".")[0]
    if party in PARTIES and other_party in PARTIES and party != other_party:
        # Only seats may meet another party, and only at its seats: nobody imports another party's decisions.
        return not (row == 4 and other in SEATS)
    if party == other_party:
        return other_row > row
    if row == other_row == 4:
        return party in PARTIES or (party, other_party) == ("devnet", "cli")
    return other_row >= row and other not in SAME_ROW.get(room, set())


def violations(root: Path) -> list[str]:
    """Every import below `root` that breaks the table, as `file:line: what`."""
    files = {
        path: ".".join(path.relative_to(root).with_suffix("").parts) for path in sorted((root / "x402").rglob("*.py"))
    }
    files = {path: name.removesuffix(".__init__") for path, name in files.items()}
    known = set(files.values())
    found = []
    for path, module in files.items():
        room = room_of(module)
        row = row_of(room) if room else 0
        denied = NEVER[row] - GRANTED.get(room, set())
        if room == "schemes":
            denied = denied - CHAIN | {"web3", "solana"}
        for line, name in imports(path, module, known):
            ours = name == "x402" or name.startswith("x402.")
            ambient = name in AMBIENT and row < 4 and room != "ports"
            if forbidden(room, name) if ours else ambient or name.partition(".")[0] in denied:
                found.append(f"{path.relative_to(root)}:{line}: {name}")
        if row == 4 or room == "ports":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if isinstance(node, ast.Attribute) and name.endswith(AMBIENT):
                found.append(f"{path.relative_to(root)}:{node.lineno}: {name}")
    return found


def test_imports_point_one_way() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("money.py", "import pydantic"),
        ("errors.py", "from x402 import money"),
        ("networks.py", "import httpx"),
        ("wire/challenge.py", "import solders"),
        ("wire/headers.py", "from x402.quote import Quote"),
        ("wire/v1.py", "from x402.schemes import exact_evm"),
        ("quote.py", "from x402.wire.challenge import Requirement"),
        ("lifecycle.py", "def f() -> None:\n    import time"),
        ("schemes/exact_evm.py", "from x402 import ports"),
        ("schemes/exact_svm.py", "import time"),
        ("schemes/exact_evm.py", "from web3 import Web3"),
        ("ports/evm.py", "from x402.schemes.exact_evm import SCHEME"),
        ("ports/ledger.py", "from x402.gateway import flow"),
        ("client/flow.py", "import httpx"),
        ("client/flow.py", "from . import auth"),
        ("client/flow.py", "import sqlite3"),
        ("client/choose.py", "import os\nos.environ['KEY']"),
        ("gateway/flow.py", "from x402.facilitator import settle"),
        ("gateway/offers.py", "from starlette.requests import Request"),
        ("gateway/flow.py", "from time import time"),
        ("gateway/flow.py", "if TYPE_CHECKING:\n    from x402.client.flow import Flow"),
        ("facilitator/settle.py", "from x402.gateway.flow import Till"),
        ("facilitator/verify.py", "import web3"),
        ("facilitator/settle.py", "from datetime import datetime\n\nnow = datetime.now()"),
        ("gateway/app.py", "from x402.facilitator.settle import settle"),
        ("gateway/app.py", "from x402.devnet import town"),
        ("client/auth.py", "from x402.gateway import paywall as p, flow"),
        ("__init__.py", "from x402.money import Amount"),
        ("errors.py", "from importlib import import_module\n\nimport_module('x402.wire.strict')"),
        ("wire/strict.py", "from ..gateway import flow"),
        ("client/choose.py", "from os import environ\nenviron['KEY']"),
        ("gateway/flow.py", "import datetime\ndatetime.datetime.now()"),
    ],
)
def test_control_a_forbidden_import_is_caught(tmp_path: Path, file: str, line: str) -> None:
    rooms = ["wire/v1", "schemes/exact_evm", "gateway/flow", "gateway/paywall", "client/flow", "client/auth", "money",
             "quote", "facilitator/settle", "devnet/town", "networks", "ports/__init__", "wire/challenge"]  # fmt: skip
    for name in [*(f"{room}.py" for room in rooms), file]:
        path = tmp_path / "x402" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        (path.parent / "__init__.py").touch()
    assert violations(tmp_path) == []
    (tmp_path / "x402" / file).write_text(line + "\n")
    assert len(violations(tmp_path)) == 1


def test_control_allowed_imports_pass(tmp_path: Path) -> None:
    allowed = {
        "__init__.py": "if TYPE_CHECKING:\n    from x402.money import Amount\n",
        "networks.py": "from x402.money import Asset\nfrom x402 import errors\n",
        "wire/receipt.py": "import pydantic\nfrom x402 import networks\nfrom x402.lifecycle import Outcome\n",
        "schemes/exact_evm.py": "import coincurve\nfrom x402.wire.payment import Payment\n",
        "ports/evm.py": "import time, httpx, web3\nfrom x402.chain import Log\n",
        "client/flow.py": "import json\nfrom x402 import schemes\nfrom x402.client import journal\n",
        "client/journal.py": "import sqlite3\n",
        "gateway/inference/upstream.py": "import httpx\n",
        "gateway/paywall.py": "import time\nfrom x402.facilitator.remote import R\nfrom x402.gateway import flow\n",
        "gateway/flow.py": "import asyncio\nfrom x402.ports import Ledger\n",
        "facilitator/remote.py": "import httpx\n",
        "devnet/town.py": "import x402.gateway.flow, x402.client.auth\n",
        "cli.py": "import typer\nfrom x402.devnet import town\n",
    }
    for name, text in allowed.items():
        path = tmp_path / "x402" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert violations(tmp_path) == []


def test_a_room_outside_the_table_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "x402").mkdir()
    (tmp_path / "x402" / "attic.py").write_text("import json\n")
    with pytest.raises(AssertionError, match="attic stands in no row"):
        violations(tmp_path)


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after a statement."""
    script = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    return set(done.stdout.split())


def test_import_x402_loads_nothing_heavy() -> None:
    heavy = {
        "web3",
        "solana",
        "solders",
        "fastapi",
        "starlette",
        "pydantic",
        "httpx",
        "httpx2",
        "sqlalchemy",
        "coincurve",
    }
    assert loaded_by("import x402") & heavy == set()
    assert "pydantic" in loaded_by("import x402; x402.Challenge"), "the public names must load what they need"


def test_import_of_the_client_loads_no_server_and_no_chain_node() -> None:
    servers = {"web3", "solana", "fastapi", "starlette", "uvicorn", "sqlalchemy", "eth_account", "eth_tester"}
    assert loaded_by("import x402.client.auth") & servers == set()
    assert loaded_by("import x402; x402.X402Auth, x402.Chat, x402.Wallet, x402.Limits") & servers == set()


def test_a_facilitator_starts_without_what_only_later_requests_need() -> None:
    later = {"fastapi", "structlog", "rich", "limits", "solders", "alembic", "psycopg"}
    assert loaded_by("import x402.facilitator.service, x402.facilitator.outfit, x402.cli.serve") & later == set()
    assert "solders" in loaded_by("import x402.facilitator.svm_rail"), "a rail on Solana must load what it needs"
