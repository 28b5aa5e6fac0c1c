"""What the chains say, read from outside: every transfer to the seller, and how far each signer has come."""

from __future__ import annotations

import base64
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from solders.transaction import VersionedTransaction

from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET, get
from x402.schemes.evm_payment import TRANSFER_TOPIC
from x402.schemes.exact_evm import AUTHORIZATION_USED_TOPIC
from x402.schemes.exact_svm_layout import message_id, message_of, signed_bytes, token_account

PAGE = 1000
_CONFIRMED = {"commitment": "confirmed"}


@dataclass(frozen=True, slots=True)
class Moved:
    """One transfer to the seller. `units` are atomic USDC, `pay_id` the identity of the payment that it is."""

    pay_id: str
    network: str
    units: int
    transaction: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A facilitator's EVM key by the chain: transactions in blocks, and those with the ones that wait."""

    signer: str
    mined: int
    with_waiting: int


class Node:
    """A JSON-RPC node, asked from this thread."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=60.0)
        self._ids = itertools.count(1)

    def ask(self, method: str, *params: Any) -> Any:
        """The result of one method. Raises `RuntimeError` for the node's refusal."""
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": list(params)}
        answer = self._http.post("/", json=body).json()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


class Chains:
    """Both chains, as far as one seller and some signers go."""

    def __init__(self, evm: str, svm: str, seller: Mapping[str, str]) -> None:
        self.evm, self.svm = Node(evm), Node(svm)
        self._seller = seller
        self._usdc = {network: get(network).usd.address for network in (BASE_SEPOLIA, SOLANA_DEVNET)}
        self._seen: dict[str, Moved] = {}

    def close(self) -> None:
        """Close the connections."""
        self.evm.close()
        self.svm.close()

    def received(self) -> dict[str, int]:
        """The seller's atomic USDC, by network."""
        call = {"to": self._usdc[BASE_SEPOLIA], "data": "0x70a08231" + _word(self._seller[BASE_SEPOLIA])}
        held = self.svm.ask("getTokenAccountBalance", self._account())
        return {
            BASE_SEPOLIA: int(self.evm.ask("eth_call", call, "latest"), 16),
            SOLANA_DEVNET: int(held["value"]["amount"]),
        }

    def transfers(self) -> list[Moved]:
        """Every transfer to the seller since the chains began."""
        return [*self._evm_transfers(), *self._svm_transfers()]

    def signed(self, signers: Sequence[str]) -> list[Signed]:
        """How far each signer has come."""

        def count(signer: str, tag: str) -> int:
            return int(self.evm.ask("eth_getTransactionCount", signer, tag), 16)

        return [Signed(signer, count(signer, "latest"), count(signer, "pending")) for signer in signers]

    def _evm_transfers(self) -> Iterator[Moved]:
        """Each payment leaves a pair of logs in its transaction: the authorization's, then the transfer's."""
        asset = self._usdc[BASE_SEPOLIA]
        used: dict[tuple[str, str], list[str]] = defaultdict(list)
        for log in self._logs([AUTHORIZATION_USED_TOPIC]):
            used[log["transactionHash"], log["topics"][1]].append(log["topics"][2])
        for log in self._logs([TRANSFER_TOPIC, None, "0x" + _word(self._seller[BASE_SEPOLIA])]):
            nonces = used[log["transactionHash"], log["topics"][1]]
            payer = "0x" + log["topics"][1][-40:]
            pay_id = f"{BASE_SEPOLIA}:{asset}:{payer}:{nonces.pop(0) if nonces else 'no authorization'}".lower()
            yield Moved(pay_id, BASE_SEPOLIA, int(log["data"], 16), log["transactionHash"])

    def _logs(self, topics: list[str | None]) -> list[dict[str, Any]]:
        query = {"address": self._usdc[BASE_SEPOLIA], "topics": topics, "fromBlock": "0x0", "toBlock": "latest"}
        logs: list[dict[str, Any]] = self.evm.ask("eth_getLogs", query)
        return sorted(logs, key=lambda log: (int(log["blockNumber"], 16), int(log["logIndex"], 16)))

    def _svm_transfers(self) -> list[Moved]:
        before: dict[str, str] = {}
        while True:
            page = self.svm.ask("getSignaturesForAddress", self._account(), {"limit": PAGE, **before, **_CONFIRMED})
            fresh = [one["signature"] for one in page if one["err"] is None and one["signature"] not in self._seen]
            for signature in fresh:
                moved = self._svm_transfer(signature)
                if moved is not None:
                    self._seen[signature] = moved
            if len(page) < PAGE or not fresh:
                return list(self._seen.values())
            before = {"before": page[-1]["signature"]}

    def _svm_transfer(self, signature: str) -> Moved | None:
        how = {"encoding": "base64", "maxSupportedTransactionVersion": 0, **_CONFIRMED}
        found = self.svm.ask("getTransaction", signature, how)
        message = message_of(VersionedTransaction.from_bytes(base64.b64decode(found["transaction"][0])))
        index = [str(key) for key in message.account_keys].index(self._account())
        before, after = (
            sum(int(one["uiTokenAmount"]["amount"]) for one in found["meta"][when] if one["accountIndex"] == index)
            for when in ("preTokenBalances", "postTokenBalances")
        )
        if after == before:
            return None
        return Moved(message_id(signed_bytes(message), SOLANA_DEVNET), SOLANA_DEVNET, after - before, signature)

    def _account(self) -> str:
        usdc = get(SOLANA_DEVNET).usd
        return token_account(self._seller[SOLANA_DEVNET], usdc.address, usdc.token_program)


def _word(address: str) -> str:
    return address.removeprefix("0x").lower().rjust(64, "0")
