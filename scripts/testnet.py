"""Where fund, pay, verify and settle work: test networks, their nodes, and the rule that real money is refused.

They run on the public test networks (Solana devnet, Base Sepolia) and, with `--local`, on the chains of
`x402 devnet up` in another terminal. Keys come from the environment or a wallet file, never from the command line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from x402.client.wallet import Wallet
    from x402.networks import Network

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = ("base-sepolia", "solana-devnet")
LOCAL_EVM, LOCAL_SVM = "http://127.0.0.1:8545", "http://127.0.0.1:8899"
LOCAL_FACILITATOR = "http://127.0.0.1:4022"
_NEEDED = ("coincurve", "solders", "eth_account", "sqlalchemy", "typer")
_ENTERED = "X402_SCRIPT_ENTERED"

Main = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """The options that every script has."""
    made = argparse.ArgumentParser(
        description=description, epilog=f"example: {example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", action="store_true", help="print JSON for programs, errors too")
    made.add_argument("--local", action="store_true", help="use the usual ports of `x402 devnet up`")
    made.add_argument("--evm-rpc", metavar="URL", help="the EVM node; else X402_EVM_RPC_URL, else the public one")
    made.add_argument("--svm-rpc", metavar="URL", help="the Solana node; else X402_SVM_RPC_URL, else the public one")
    made.add_argument("--mainnet", action="store_true", help="allow networks with real money")
    return made


def run(main: Main, arguments: argparse.Namespace) -> int:
    """Run a script to its exit code; errors say what happened, whether money moved, and what to type next.

    Goes on in this checkout's virtual environment when the running Python lacks what the project needs.
    """
    enter_environment()
    from x402.cli.failures import exit_code, report
    from x402.errors import X402Error

    try:
        return asyncio.run(main(arguments))
    except X402Error as error:
        report(error, as_json=arguments.json)
        return exit_code(error)
    except KeyboardInterrupt:
        return 130


def enter_environment() -> None:
    """Go on in this checkout's virtual environment when the running Python lacks what the project needs."""
    sys.path.insert(0, str(ROOT))
    if any(find_spec(name) is None for name in _NEEDED):
        _run_again_in_venv()


def _run_again_in_venv() -> NoReturn:
    made = subprocess.run([str(ROOT / "scripts" / "venv"), "devnet"], stdout=subprocess.PIPE, text=True, check=False)
    python = made.stdout.strip()
    if made.returncode or os.environ.get(_ENTERED):
        print("the virtual environment lacks what the scripts need; see scripts/venv --help", file=sys.stderr)
        sys.exit(made.returncode or 1)
    os.environ[_ENTERED] = "1"
    os.execv(python, [python, *sys.argv])


def network(name: str, *, mainnet: bool) -> Network:
    """The network of that name or CAIP-2 id. Raises `MisconfiguredError` for real money without `mainnet`."""
    from x402 import networks
    from x402.errors import MisconfiguredError

    found = networks.get(name)
    if not found.testnet and not mainnet:
        raise MisconfiguredError("mainnet_refused", f"{found.title} carries real money")
    return found


def node(wanted: Network, arguments: argparse.Namespace) -> str:
    """The URL of the node to ask about a network. Raises `MisconfiguredError("no_rpc")` when none is known."""
    from x402 import networks
    from x402.errors import MisconfiguredError
    from x402.settings import FacilitatorSettings

    settings = FacilitatorSettings.read()
    if wanted.family == networks.EIP155:
        named, local, configured = arguments.evm_rpc, LOCAL_EVM, settings.evm_rpc_url
    else:
        named, local, configured = arguments.svm_rpc, LOCAL_SVM, settings.svm_rpc_url
    url: str = named or (local if arguments.local else "") or configured or wanted.rpc_url
    if not url:
        option = "--evm-rpc" if wanted.family == networks.EIP155 else "--svm-rpc"
        raise MisconfiguredError("no_rpc", f"no public node of {wanted.title} is known; name one with {option}")
    return url


def wallet(file: Path | None) -> Wallet:
    """The wallet of that file, else the environment's, else the default file's. Raises `MisconfiguredError`."""
    from x402.cli.wallet import find
    from x402.client.wallet import Wallet

    found = find(file)
    assert isinstance(found, Wallet)
    return found


def show(value: Mapping[str, Any], lines: list[str], *, as_json: bool) -> None:
    """The result on standard output: for programs, or for people."""
    print(json.dumps(value, indent=2) if as_json else "\n".join(lines))
