"""What nodes and facilitators answer, read by the real ports over their real HTTP client (faults D14, E01, A03, A14).

Whatever comes, a port answers with its own types or says that nobody answered.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from fuzzing import seeds
from fuzzing.case import Broken, Target
from fuzzing.tape import Tape, damage, fresh, maul, tear
from fuzzing.wire_targets import OBJECTS, wounded_text
from fuzzing.wires import Mouth, Said
from x402.errors import MisconfiguredError, UnavailableError
from x402.facilitator.remote import RemoteFacilitator
from x402.ports import NotSent
from x402.ports.evm import RpcEvmChain
from x402.ports.rpc import JsonRpc, RpcError
from x402.ports.svm import RpcSvmChain
from x402.wire.receipt import Receipt

TRANSACTION = "0x" + "ab" * 32
SIGNATURE = "5" * 88
BRIEF = 0.002
"""Seconds that a poll may take here: an answer comes at once or never."""

_WORD = "0x" + "00" * 31 + "01"
LOG = {
    "address": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "topics": [_WORD, _WORD, _WORD],
    "data": _WORD,
    "transactionHash": TRANSACTION,
    "blockNumber": "0x10",
    "logIndex": "0x0",
}
EVM_SAYS: dict[str, Any] = {
    "eth_chainId": "0x14a34",
    "eth_getCode": "0x6001",
    "eth_call": _WORD,
    "eth_getBalance": "0xde0b6b3a7640000",
    "eth_getTransactionCount": "0x5",
    "eth_getBlockByNumber": {"number": "0x10", "timestamp": hex(seeds.NOW), "baseFeePerGas": "0x7", "hash": _WORD},
    "eth_maxPriorityFeePerGas": "0x1",
    "eth_sendRawTransaction": TRANSACTION,
    "eth_getTransactionByHash": {"hash": TRANSACTION, "blockNumber": "0x10"},
    "eth_getTransactionReceipt": {
        "transactionHash": TRANSACTION,
        "status": "0x1",
        "blockNumber": "0x10",
        "blockHash": _WORD,
        "logs": [LOG],
    },
    "eth_getLogs": [LOG],
    "eth_blockNumber": "0x12",
}
_TOKEN_BALANCE = {
    "accountIndex": 1,
    "mint": str(seeds.svm_offer().asset),
    "owner": str(seeds.SELLER.pubkey()),
    "uiTokenAmount": {"amount": "10000", "decimals": 6},
}
SVM_SAYS: dict[str, Any] = {
    "getGenesisHash": "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG",
    "getLatestBlockhash": {"context": {"slot": 1}, "value": {"blockhash": seeds.BLOCKHASH, "lastValidBlockHeight": 9}},
    "getBlockHeight": 7,
    "isBlockhashValid": {"context": {"slot": 1}, "value": True},
    "getMultipleAccounts": {
        "context": {"slot": 1},
        "value": [{"data": ["AA==", "base64"], "owner": seeds.BLOCKHASH, "lamports": 10**9}],
    },
    "simulateTransaction": {"context": {"slot": 1}, "value": {"err": None, "logs": ["Program log: x"]}},
    "sendTransaction": SIGNATURE,
    "getSignatureStatuses": {
        "context": {"slot": 1},
        "value": [{"slot": 5, "confirmations": None, "err": None, "confirmationStatus": "finalized"}],
    },
    "getTransaction": {
        "slot": 5,
        "blockTime": seeds.NOW,
        "transaction": {"signatures": [SIGNATURE], "message": {"accountKeys": ["a", "b", "c"]}},
        "meta": {
            "err": None,
            "preTokenBalances": [_TOKEN_BALANCE],
            "postTokenBalances": [_TOKEN_BALANCE],
            "loadedAddresses": {"writable": ["d"], "readonly": []},
        },
    },
    "getSignaturesForAddress": [{"signature": SIGNATURE, "slot": 5, "err": None, "blockTime": 1, "memo": "[2] x"}],
    "getBalance": {"context": {"slot": 1}, "value": 10**9},
    "getSlot": 12,
}
ERRORS: list[dict[str, Any]] = [
    {"code": -32000, "message": "insufficient funds for gas * price + value"},
    {"code": -32000, "message": "nonce too low"},
    {"code": -32000, "message": "already known"},
    {"code": 3, "message": "execution reverted", "data": "0x08c379a0" + "00" * 31 + "20" + "ff" * 32},
    {"code": -32002, "message": "Transaction simulation failed", "data": {"err": "AlreadyProcessed", "logs": []}},
    {"code": -32005, "message": "limit exceeded"},
    {"code": -32602, "message": "invalid params"},
]
"""What nodes say when they say no."""


def evm_questions(chain: RpcEvmChain) -> list[Callable[[], Awaitable[object]]]:
    """Every question that is put to an EVM node."""
    here = seeds.EVM_PAYER
    return [
        chain.check_chain_id,
        lambda: chain.code(here),
        lambda: chain.call(here, b"\x01", sender=here, gas=1),
        lambda: chain.balance(here),
        lambda: chain.transaction_count(here),
        chain.fees,
        lambda: chain.send(b"\x02", TRANSACTION),
        lambda: chain.knows(TRANSACTION),
        lambda: chain.receipt(TRANSACTION, timeout=BRIEF),
        lambda: chain.logs(here, [None, _WORD], 1, 2),
        chain.now,
        lambda: chain.time_of(5),
        chain.block_number,
    ]


def svm_questions(chain: RpcSvmChain) -> list[Callable[[], Awaitable[object]]]:
    """Every question that is put to a Solana node."""
    here = seeds.BLOCKHASH
    return [
        lambda: chain.check_cluster(seeds.SVM),
        chain.blockhash,
        chain.block_height,
        lambda: chain.is_blockhash_valid(here),
        lambda: chain.accounts([here]),
        lambda: chain.simulate(b"\x01", verify_signatures=True),
        lambda: chain.send(b"\x01", SIGNATURE),
        lambda: chain.status(SIGNATURE, timeout=BRIEF),
        lambda: chain.transaction(SIGNATURE),
        lambda: chain.signatures_of(here),
    ]


class Node:
    """A JSON-RPC node that answers each call truthfully, except where a case has other words for a method.

    `nonsense` maps a method to a reply's members, and `""` to a whole body of bytes.
    """

    def __init__(self, says: dict[str, Any]) -> None:
        self.says = says
        self.nonsense: dict[str, Any] = {}
        self.mouth = Mouth()
        self.mouth.reply(self._reply)
        self._client = self.mouth.client()
        self.rpc = JsonRpc("http://node.test/key", post=self._post)

    async def _post(self, content: bytes) -> tuple[int, bytes]:
        try:
            response = await self._client.post("http://node.test/key", content=content)
        except httpx.HTTPError as error:
            raise UnavailableError("rpc_unavailable", type(error).__name__) from None
        return response.status_code, response.content

    def _reply(self, request: httpx.Request) -> httpx.Response:
        if "" in self.nonsense:
            return Said.load(self.nonsense[""]).response()
        asked = json.loads(request.content)
        calls = asked if isinstance(asked, list) else [asked]
        replies = [self._answer(call) for call in calls]
        return httpx.Response(200, content=json.dumps(replies if isinstance(asked, list) else replies[0]).encode())

    def _answer(self, call: dict[str, Any]) -> Any:
        envelope = {"jsonrpc": "2.0", "id": call["id"]}
        if call["method"] in self.nonsense:
            members = self.nonsense[call["method"]]
            return envelope | members if isinstance(members, dict) else members
        return envelope | {"result": self.says.get(call["method"])}


def wounded_answers(tape: Tape, says: dict[str, Any]) -> dict[str, Any]:
    """Nonsense for a few methods; or a whole body that is none of what was asked for."""
    if tape.below(6) == 0:
        whole = {"jsonrpc": "2.0", "id": 1, "result": tape.choose(list(says.values()))}
        body = json.dumps(damage(fresh(json.dumps(tape.choose([whole, [whole, whole]]))), tape)).encode()
        if tape.below(2):
            body = tape.choose([b"", b"null", b"[]", b"[[]]", b"\xff\xfe", b"[" * 5_000, b"9" * 6_000, b"<html>",
                                b'{"id":1,"result":NaN}', b'{"id":1e400,"result":1}', maul(body, tape)])  # fmt: skip
        status = tape.choose([200, 200, 200, 301, 400, 403, 429, 500, 503])
        return {"": Said(status, [], body, breaks=tape.below(8) == 0).dump()}
    nonsense: dict[str, Any] = {}
    for _ in range(1 + tape.below(3)):
        method = tape.choose(list(says))
        match tape.below(6):
            case 0:
                nonsense[method] = {"error": damage(fresh(json.dumps(tape.choose(ERRORS))), tape)}
            case 1:
                nonsense[method] = {"error": tape.choose(ERRORS)}
            case 2:
                nonsense[method] = damage({"result": fresh(json.dumps(says[method])), "id": 1}, tape)
            case 3 if isinstance(says[method], str):
                nonsense[method] = {"result": tear(says[method], tape)}
            case _:
                nonsense[method] = {"result": damage([fresh(json.dumps(says[method]))], tape)}
                if isinstance(nonsense[method]["result"], list) and nonsense[method]["result"]:
                    nonsense[method]["result"] = nonsense[method]["result"][0]
    return nonsense


class Peers:
    """Nodes and a facilitator, with the ports that ask them."""

    def __init__(self) -> None:
        self.evm, self.svm = Node(EVM_SAYS), Node(SVM_SAYS)
        self.mouth = Mouth()
        self.remote = RemoteFacilitator("http://facilitator.test", client=self.mouth.client())
        self.offer = seeds.evm_offer()
        self.payment = seeds.payment(self.offer)

    async def ask(self, verb: str) -> object:
        """The facilitator's answer to verify, settle or supported."""
        if verb == "supported":
            return await self.remote.supported()
        ask = self.remote.verify if verb == "verify" else self.remote.settle
        return await ask(self.payment, self.offer)

    async def close(self) -> None:
        """Let go of the clients."""
        for node in (self.evm, self.svm):
            await node.rpc.aclose()
        await self.remote.aclose()


REFUSALS = (UnavailableError, MisconfiguredError, NotSent)


def targets(peers: Peers) -> list[Target]:
    """The ports, one question a case."""

    def make_evm(tape: Tape) -> bytes:
        return json.dumps([tape.below(13), wounded_answers(tape, EVM_SAYS)]).encode()

    async def run_evm(data: bytes) -> bool:
        question, peers.evm.nonsense = json.loads(data)
        await evm_questions(RpcEvmChain("", 84532, rpc=peers.evm.rpc))[question]()
        return True

    def make_svm(tape: Tape) -> bytes:
        return json.dumps([tape.below(10), wounded_answers(tape, SVM_SAYS)]).encode()

    async def run_svm(data: bytes) -> bool:
        question, peers.svm.nonsense = json.loads(data)
        await svm_questions(RpcSvmChain("", rpc=peers.svm.rpc))[question]()
        return True

    def make_batch(tape: Tape) -> bytes:
        replies = [{"jsonrpc": "2.0", "id": index + 1, "result": index} for index in range(3)]
        body = json.dumps(damage(replies, tape)).encode()
        body = maul(body, tape) if tape.below(3) == 0 else body
        return json.dumps(Said(tape.choose([200, 500]), [], body, breaks=tape.below(9) == 0).dump()).encode()

    async def run_batch(data: bytes) -> bool:
        node = Node({})
        node.nonsense = {"": json.loads(data)}
        results = await asyncio.gather(*(node.rpc.call("any") for _ in range(3)), return_exceptions=True)
        await node.rpc.aclose()
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, UnavailableError | RpcError):
                raise result
        return not any(isinstance(result, BaseException) for result in results)

    def make_facilitator(tape: Tape) -> bytes:
        verb = tape.choose(["verify", "settle", "supported"])
        texts = OBJECTS[{"verify": "verification", "settle": "receipt"}.get(verb, "supported")][1]
        body = wounded_text(tape, texts).encode(errors="surrogatepass")
        if tape.below(6) == 0:
            body = tape.choose([b"", b"null", b"[]", b"\xff", b"[" * 9_000, b"{" * 70_000, body[: len(body) // 2]])
        status = tape.choose([200, 200, 200, 200, 204, 301, 400, 402, 500, 503])
        headers = [("content-encoding", tape.choose(["gzip", "br", "x"]))] if tape.below(20) == 0 else []
        return json.dumps([verb, Said(status, headers, body, breaks=tape.below(10) == 0).dump()]).encode()

    async def run_facilitator(data: bytes) -> bool:
        verb, said = json.loads(data)
        peers.mouth.say(Said.load(said))
        answer = await peers.ask(verb)
        if isinstance(answer, Receipt) and answer.success and (base64.b64decode(said[2]) == b"" or said[3]):
            raise Broken("an answer that broke off counts as settled")
        return True

    return [
        Target("node.evm", make_evm, run_evm, 6, REFUSALS),
        Target("node.svm", make_svm, run_svm, 6, REFUSALS),
        Target("node.batch", make_batch, run_batch, 2),
        Target("node.facilitator", make_facilitator, run_facilitator, 4, REFUSALS),
    ]


@asynccontextmanager
async def open_peers(place: Path) -> AsyncIterator[Peers]:
    """The peers; nothing of theirs is kept on disk."""
    peers = Peers()
    yield peers
    await peers.close()
