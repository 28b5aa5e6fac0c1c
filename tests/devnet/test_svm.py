"""The Solana devnet over real HTTP and WebSocket, with raw JSON-RPC and with solana-py."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import websockets
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed
from solders.account import Account
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.token import ID as TOKEN_PROGRAM
from solders.transaction import VersionedTransaction

from x402.devnet.svm import USDC_MINT, SvmDevnet
from x402.devnet.svm_bank import MAX_AGE_BLOCKS, Bank
from x402.devnet.svm_encoding import base58_decode
from x402.devnet.svm_faucet import usdc_account
from x402.devnet.svm_history import History, Landed
from x402.errors import MalformedError, UnavailableError
from x402.networks import SOLANA_DEVNET

MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
SOL = 1_000_000_000


class Chain:
    """A devnet with a funded buyer, merchant and fee payer, and the shortest way to call it."""

    def __init__(self, devnet: SvmDevnet, http: httpx.AsyncClient) -> None:
        self.devnet = devnet
        self.http = http
        self.buyer, self.merchant, self.fee_payer = Keypair(), Keypair(), Keypair()

    async def post(self, body: Any) -> Any:
        return (await self.http.post(self.devnet.url, json=body)).json()

    async def response(self, method: str, *params: Any) -> Any:
        return await self.post({"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)})

    async def call(self, method: str, *params: Any) -> Any:
        response = await self.response(method, *params)
        assert "error" not in response, response
        return response["result"]

    async def send(self, tx: VersionedTransaction, **config: Any) -> Any:
        return await self.response("sendTransaction", wire(tx), {"encoding": "base64", **config})

    async def status(self, tx: VersionedTransaction) -> Any:
        found = await self.call("getSignatureStatuses", [str(tx.signatures[0])])
        return found["value"][0]

    async def blockhash(self) -> Hash:
        return Hash.from_string((await self.call("getLatestBlockhash"))["value"]["blockhash"])

    async def payment(self, amount: int = 250_000, *, blockhash: Hash | None = None) -> VersionedTransaction:
        """An x402 `exact` payment: limit, price, TransferChecked, memo; signed by buyer and fee payer."""
        accounts = [
            AccountMeta(usdc_account(self.buyer.pubkey()), False, True),
            AccountMeta(USDC_MINT, False, False),
            AccountMeta(usdc_account(self.merchant.pubkey()), False, True),
            AccountMeta(self.buyer.pubkey(), True, False),
        ]
        instructions = [
            set_compute_unit_limit(20_000),
            set_compute_unit_price(1_000),
            Instruction(TOKEN_PROGRAM, bytes([12]) + amount.to_bytes(8, "little") + bytes([6]), accounts),
            Instruction(MEMO, Keypair().secret().hex()[:32].encode(), []),
        ]
        payer = self.fee_payer.pubkey()
        message = MessageV0.try_compile(payer, instructions, [], blockhash or await self.blockhash())
        return VersionedTransaction(message, [self.fee_payer, self.buyer])


def wire(tx: VersionedTransaction) -> str:
    return base64.b64encode(bytes(tx)).decode()


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    async with SvmDevnet(slot_ms=0) as devnet, httpx.AsyncClient() as http:
        chain = Chain(devnet, http)
        await devnet.fund(str(chain.buyer.pubkey()), usdc_atomic=1_000_000, lamports=0)
        await devnet.create_usdc_account(str(chain.merchant.pubkey()))
        await devnet.fund(str(chain.fee_payer.pubkey()), usdc_atomic=0, lamports=SOL)
        yield chain


async def test_a_batch_answers_each_call_and_names_the_devnet(chain: Chain) -> None:
    methods = ["getHealth", "getGenesisHash", "getSlot", "getBlockHeight", "noSuchMethod", "getBlock"]
    batch = [{"jsonrpc": "2.0", "id": name, "method": name} for name in methods]
    by_id = {answer["id"]: answer for answer in await chain.post(batch)}
    assert by_id["getHealth"]["result"] == "ok"
    assert "solana:" + by_id["getGenesisHash"]["result"][:32] == SOLANA_DEVNET
    assert by_id["getSlot"]["result"] > by_id["getBlockHeight"]["result"]
    assert by_id["noSuchMethod"]["error"]["code"] == by_id["getBlock"]["error"]["code"] == -32601


async def test_solana_py_sends_with_preflight_and_confirms() -> None:
    async with SvmDevnet(slot_ms=20) as devnet, AsyncClient(devnet.url, Confirmed) as client:
        payer, payee = Keypair(), Keypair().pubkey()
        await client.request_airdrop(payer.pubkey(), 2 * SOL)
        latest = (await client.get_latest_blockhash()).value
        instruction = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=payee, lamports=SOL))
        message = Message.new_with_blockhash([instruction], payer.pubkey(), latest.blockhash)
        signature = (await client.send_transaction(VersionedTransaction(message, [payer]))).value
        confirmed = await client.confirm_transaction(signature, last_valid_block_height=latest.last_valid_block_height)
        assert confirmed.value[0] is not None
        assert (await client.get_balance(payee)).value == SOL
        assert (await client.get_token_supply(USDC_MINT)).value.decimals == 6
        found = (await client.get_transaction(signature)).value
        assert found is not None
        assert found.transaction.meta is not None
        assert found.transaction.meta.fee == 5_000


async def test_an_exact_payment_lands_with_its_balances(chain: Chain) -> None:
    tx = await chain.payment(250_000)
    assert (await chain.send(tx))["result"] == str(tx.signatures[0])
    assert (await chain.status(tx))["err"] is None
    assert await chain.devnet.usdc_balance(str(chain.merchant.pubkey())) == 250_000
    assert await chain.devnet.usdc_balance(str(chain.buyer.pubkey())) == 750_000
    options = {"encoding": "jsonParsed", "maxSupportedTransactionVersion": 0}
    found = await chain.call("getTransaction", str(tx.signatures[0]), options)
    assert found["version"] == 0
    meta = found["meta"]
    # Two signatures, and 20,000 compute units at 1,000 micro-lamports.
    assert meta["fee"] == 10_020 == meta["preBalances"][0] - meta["postBalances"][0]
    assert await chain.devnet.lamports(str(chain.fee_payer.pubkey())) == SOL - 10_020

    def amounts(kind: str) -> dict[str, str]:
        return {row["owner"]: row["uiTokenAmount"]["amount"] for row in meta[kind]}

    buyer, merchant = str(chain.buyer.pubkey()), str(chain.merchant.pubkey())
    assert amounts("preTokenBalances") == {buyer: "1000000", merchant: "0"}
    assert amounts("postTokenBalances") == {buyer: "750000", merchant: "250000"}
    parsed = found["transaction"]["message"]["instructions"][2]["parsed"]
    assert parsed["type"] == "transferChecked"
    assert parsed["info"]["tokenAmount"] == {
        "amount": "250000", "decimals": 6, "uiAmount": 0.25, "uiAmountString": "0.25",
    }  # fmt: skip
    listed = await chain.call("getSignaturesForAddress", buyer)
    assert listed[0]["signature"] == str(tx.signatures[0])
    assert listed[0]["memo"].startswith("[32] ")


async def test_the_fee_of_a_message_is_what_the_chain_charges(chain: Chain) -> None:
    tx = await chain.payment()
    message = base64.b64encode(to_bytes_versioned(tx.message)).decode()
    assert (await chain.call("getFeeForMessage", message))["value"] == 10_020
    chain.devnet.advance_slots(MAX_AGE_BLOCKS + 1)
    assert (await chain.call("getFeeForMessage", message))["value"] is None


async def test_getting_a_v0_transaction_needs_the_version_flag(chain: Chain) -> None:
    tx = await chain.payment()
    await chain.send(tx)
    assert (await chain.response("getTransaction", str(tx.signatures[0])))["error"]["code"] == -32015
    for encoding in ("base64", "base58"):
        options = {"encoding": encoding, "maxSupportedTransactionVersion": 0}
        data, named = (await chain.call("getTransaction", str(tx.signatures[0]), options))["transaction"]
        assert named == encoding
        assert (base64.b64decode(data) if encoding == "base64" else base58_decode(data)) == bytes(tx)


async def test_a_blockhash_dies_after_150_blocks(chain: Chain) -> None:
    latest = (await chain.call("getLatestBlockhash"))["value"]
    blockhash = Hash.from_string(latest["blockhash"])
    early, late = [await chain.payment(1, blockhash=blockhash) for _ in range(2)]
    chain.devnet.advance_slots(MAX_AGE_BLOCKS)
    assert await chain.call("getBlockHeight") == latest["lastValidBlockHeight"]
    assert (await chain.call("isBlockhashValid", latest["blockhash"]))["value"] is True
    assert "result" in await chain.send(early)
    chain.devnet.advance_slots(1)
    assert (await chain.call("isBlockhashValid", latest["blockhash"]))["value"] is False
    refused = (await chain.send(late))["error"]
    assert (refused["code"], refused["data"]["err"]) == (-32002, "BlockhashNotFound")
    assert refused["message"] == "Transaction simulation failed: Blockhash not found"
    simulated = await chain.call("simulateTransaction", wire(late), {"encoding": "base64"})
    assert simulated["value"]["err"] == "BlockhashNotFound"
    replaced = await chain.call(
        "simulateTransaction", wire(late), {"encoding": "base64", "replaceRecentBlockhash": True}
    )
    assert replaced["value"]["err"] is None
    assert replaced["value"]["replacementBlockhash"]["blockhash"] != latest["blockhash"]
    assert (await chain.send(late, skipPreflight=True))["result"] == str(late.signatures[0])
    assert await chain.status(late) is None


async def test_a_message_lands_once(chain: Chain) -> None:
    tx = await chain.payment(100)
    await chain.send(tx)
    again = (await chain.send(tx))["error"]
    assert (again["code"], again["data"]["err"]) == (-32002, "AlreadyProcessed")
    assert (await chain.send(tx, skipPreflight=True))["result"] == str(tx.signatures[0])
    assert await chain.devnet.usdc_balance(str(chain.merchant.pubkey())) == 100
    assert await chain.devnet.lamports(str(chain.fee_payer.pubkey())) == SOL - 10_020


async def test_a_failed_transaction_is_visible_and_pays_its_fee(chain: Chain) -> None:
    tx = await chain.payment(9_000_000)
    refused = (await chain.send(tx))["error"]
    assert refused["message"].endswith("Error processing Instruction 2: custom program error: 0x1")
    assert await chain.status(tx) is None
    await chain.send(tx, skipPreflight=True)
    failure = {"InstructionError": [2, {"Custom": 1}]}
    assert (await chain.status(tx))["err"] == failure
    options = {"maxSupportedTransactionVersion": 0}
    meta = (await chain.call("getTransaction", str(tx.signatures[0]), options))["meta"]
    assert meta["err"] == failure
    assert meta["preTokenBalances"] == meta["postTokenBalances"]
    assert await chain.devnet.lamports(str(chain.fee_payer.pubkey())) == SOL - 10_020


async def test_a_bad_signature_never_lands(chain: Chain) -> None:
    good = await chain.payment()
    forged = VersionedTransaction.populate(good.message, [good.signatures[0], Signature.default()])
    assert (await chain.send(forged))["error"]["code"] == -32003
    assert "result" in await chain.send(forged, skipPreflight=True)
    assert await chain.status(forged) is None
    config = {"encoding": "base64", "sigVerify": True}
    assert (await chain.response("simulateTransaction", wire(forged), config))["error"]["code"] == -32003
    unsigned = await chain.call("simulateTransaction", wire(forged), {"encoding": "base64"})
    assert unsigned["value"]["err"] is None


async def test_simulation_shows_accounts_and_changes_nothing(chain: Chain) -> None:
    merchant = str(usdc_account(chain.merchant.pubkey()))
    config = {
        "encoding": "base64",
        "innerInstructions": True,
        "accounts": {"encoding": "jsonParsed", "addresses": [merchant]},
    }
    value = (await chain.call("simulateTransaction", wire(await chain.payment(40)), config))["value"]
    assert value["accounts"][0]["data"]["parsed"]["info"]["tokenAmount"]["amount"] == "40"
    assert value["innerInstructions"] == []
    assert (await chain.call("getTokenAccountBalance", merchant))["value"]["amount"] == "0"


async def test_statuses_come_in_batches_of_256(chain: Chain) -> None:
    tx = await chain.payment()
    await chain.send(tx)
    asked = [str(Signature.new_unique()) for _ in range(255)] + [str(tx.signatures[0])]
    found = (await chain.call("getSignatureStatuses", asked, {"searchTransactionHistory": True}))["value"]
    assert found[:255] == [None] * 255
    assert found[255]["confirmationStatus"] == "finalized"
    assert (await chain.response("getSignatureStatuses", [*asked, asked[0]]))["error"]["code"] == -32602


async def test_accounts_in_every_encoding(chain: Chain) -> None:
    address = usdc_account(chain.buyer.pubkey())
    raw = base64.b64decode((await account(chain, address, encoding="base64"))["data"][0])
    assert Pubkey(raw[32:64]) == chain.buyer.pubkey()
    framed = base64.b64decode((await account(chain, address, encoding="base64+zstd"))["data"][0])
    assert framed.startswith(b"\x28\xb5\x2f\xfd")
    assert framed.endswith(raw)
    part = await account(chain, address, encoding="base58", dataSlice={"offset": 32, "length": 32})
    assert part["data"] == [str(chain.buyer.pubkey()), "base58"]
    for config in ({}, {"encoding": "base58"}, {"encoding": "morse"}):
        assert (await chain.response("getAccountInfo", str(address), config))["error"]["code"] == -32602
    mint = await account(chain, USDC_MINT, encoding="jsonParsed")
    assert mint["data"]["parsed"]["info"]["mintAuthority"] == str(chain.devnet.faucet.pubkey())
    assert await account(chain, Pubkey.new_unique(), encoding="base64") is None
    owned = await chain.call(
        "getTokenAccountsByOwner", str(chain.buyer.pubkey()), {"mint": str(USDC_MINT)}, {"encoding": "jsonParsed"}
    )
    assert [row["pubkey"] for row in owned["value"]] == [str(address)]


async def account(chain: Chain, address: Pubkey, **config: Any) -> Any:
    return (await chain.call("getAccountInfo", str(address), config))["value"]


@pytest.mark.parametrize("next_port", [False, True])
async def test_the_websocket_tells_about_signatures_accounts_and_slots(chain: Chain, next_port: bool) -> None:
    port = int(chain.devnet.ws_url.rpartition(":")[2]) + next_port
    async with websockets.connect(f"ws://127.0.0.1:{port}") as socket:

        async def ask(method: str, *params: Any) -> Any:
            await socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
            return json.loads(await asyncio.wait_for(socket.recv(), 5))

        tx = await chain.payment(77)
        signature, merchant = str(tx.signatures[0]), str(usdc_account(chain.merchant.pubkey()))
        by_signature = (await ask("signatureSubscribe", signature, {"commitment": "confirmed"}))["result"]
        by_account = (await ask("accountSubscribe", merchant, {"encoding": "jsonParsed"}))["result"]
        await chain.send(tx)
        told = [json.loads(await asyncio.wait_for(socket.recv(), 5))["params"] for _ in range(2)]
        values: dict[int, Any] = {one["subscription"]: one["result"]["value"] for one in told}
        assert values[by_signature] == {"err": None}
        assert values[by_account]["data"]["parsed"]["info"]["tokenAmount"]["amount"] == "77"
        # The signature subscription is used up; the account's is still there.
        assert (await ask("signatureUnsubscribe", by_signature))["error"]["code"] == -32602
        assert (await ask("accountUnsubscribe", by_account))["result"] is True
        by_slot = (await ask("slotSubscribe"))["result"]
        assert chain.devnet.advance_slots(3) == json.loads(await socket.recv())["params"]["result"]["slot"]
        assert (await ask("slotUnsubscribe", by_slot))["result"] is True
        late = (await ask("signatureSubscribe", signature))["result"]
        notification = json.loads(await asyncio.wait_for(socket.recv(), 5))
        assert notification["params"]["subscription"] == late
        for junk in ("{", "[]", "7", b"\xff\xfe", '{"jsonrpc":"2.0","id":1,"method":"slotSubscribe","params":{}}'):
            await socket.send(junk)
            assert json.loads(await socket.recv())["error"]["code"] in (-32700, -32600, -32602)
        assert (await ask("getSlot"))["error"]["code"] == -32601


JUNK_BODIES = [
    (b"", -32700), (b"{", -32700), (b"\xff\xfe\x00", -32700), (b"NaN", -32700), (b"[" * 100_000, -32700),
    (b"9" * 5_000, -32700), (b"null", -32600), (b"[]", -32600), (b"{}", -32600), (b'"getSlot"', -32600),
    (b"[" + b"1," * 1_000 + b"1]", -32600), (b'{"jsonrpc":"1.0","id":1,"method":"getSlot"}', -32600),
    (b'{"jsonrpc":"2.0","id":{},"method":"getSlot"}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":["getSlot"]}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":"__init__"}', -32601),
    (b'{"jsonrpc":"2.0","id":1,"method":"getBalance","params":{"0":"x"}}', -32602), (b" " * 300_000, -32600),
]  # fmt: skip


async def test_junk_bodies_get_the_right_error(chain: Chain) -> None:
    for body, code in JUNK_BODIES:
        answer = await chain.http.post(chain.devnet.url, content=body)
        assert answer.json()["error"]["code"] == code, body[:80]
        assert answer.status_code == (413 if len(body) > 262_144 else 200)
    mixed = await chain.post([1, {"jsonrpc": "2.0", "id": 2, "method": "getHealth"}])
    assert [("error" in one, one["id"]) for one in mixed] == [(True, None), (False, 2)]
    silent = await chain.http.post(chain.devnet.url, json={"jsonrpc": "2.0", "method": "getHealth"})
    assert silent.content == b""
    assert (await chain.http.get(chain.devnet.url)).status_code == 405


async def test_junk_parameters_and_broken_transactions_get_typed_errors(chain: Chain) -> None:
    """Every method meets every kind of value, and a signed payment with each of its bytes changed."""
    values: list[Any] = [
        None, True, -1, 2**64, 0.5, "", "1" * 32, "é" * 40, "x" * 2_000, [], [[]], ["x"], {}, {"mint": 1},
        {"encoding": 7}, {"addresses": 1}, {"minContextSlot": 2**63}, {"dataSlice": {"offset": -1}},
    ]  # fmt: skip
    calls = [
        [method, *head, value] for method in chain.devnet.methods for value in values for head in ([], [str(MEMO)])
    ]
    good = bytes(await chain.payment())
    for offset in range(len(good)):
        broken = good[:offset] + bytes([good[offset] ^ 0x83]) + good[offset + 1 :]
        text = base64.b64encode(broken).decode()
        calls += [[m, text, {"encoding": "base64"}] for m in ("simulateTransaction", "sendTransaction")]
        calls.append(["getFeeForMessage", base64.b64encode(broken[129:]).decode()])
    calls.append(["sendTransaction", base64.b64encode(good[:-1]).decode(), {"encoding": "base64"}])
    batch = [{"jsonrpc": "2.0", "id": n, "method": m, "params": p} for n, (m, *p) in enumerate(calls)]
    for start in range(0, len(batch), 150):
        for answer in await chain.post(batch[start : start + 150]):
            code = answer.get("error", {"code": 0})["code"]
            assert code in (0, -32602, -32002, -32003, -32015, -32016, -32603), (calls[answer["id"]], answer)
    assert await chain.call("getHealth") == "ok"


async def test_funding_refuses_what_cannot_be(chain: Chain) -> None:
    owner = str(Pubkey.new_unique())
    for address, usdc, lamports in (
        ("0xnope", 1, 0),
        (owner, -1, 0),
        (owner, 1, 2**64),
        (owner, 0, 1),
        (owner, 0, 2**63),
    ):
        with pytest.raises(MalformedError):
            await chain.devnet.fund(address, usdc, lamports)
    assert (await chain.response("requestAirdrop", owner, 1))["error"]["code"] == -32603
    assert await chain.devnet.lamports(owner) == 0 == await chain.devnet.usdc_balance(owner)
    first, second = [await chain.call("requestAirdrop", owner, SOL) for _ in range(2)]
    assert first != second
    assert await chain.devnet.lamports(owner) == 2 * SOL


async def test_ports_are_honest() -> None:
    stopped = SvmDevnet()
    with pytest.raises(UnavailableError):
        _ = stopped.url
    async with SvmDevnet() as devnet:
        with pytest.raises(UnavailableError):
            await stopped.start(int(devnet.url.rpartition(":")[2]))
        with pytest.raises(UnavailableError):
            await devnet.start()
    await devnet.start()
    await devnet.stop()
    await devnet.stop()


def test_lookup_tables_are_resolved_in_the_history() -> None:
    bank, payer, payee, table = Bank(slot_ms=0), Keypair(), Pubkey.new_unique(), Pubkey.new_unique()
    bank.svm.airdrop(payer.pubkey(), SOL)
    owner = Pubkey.from_string("AddressLookupTab1e1111111111111111111111111")
    # A table's account: the variant 1, its 52 bytes of metadata (active, no authority), then the addresses.
    data = (1).to_bytes(4, "little") + b"\xff" * 8 + bytes(44) + bytes(payee)
    bank.svm.set_account(table, Account(SOL, data, owner))
    instruction = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=payee, lamports=SOL // 2))
    looked_up = [AddressLookupTableAccount(table, [payee])]
    message = MessageV0.try_compile(payer.pubkey(), [instruction], looked_up, bank.latest_blockhash)
    landed = bank.submit(VersionedTransaction(message, [payer]))
    assert landed is not None
    assert landed.error is None
    assert landed.meta["loadedAddresses"] == {"writable": [str(payee)], "readonly": []}
    assert payee in landed.addresses


def test_history_forgets_the_oldest() -> None:
    shared, history = Pubkey.new_unique(), History(3)
    for number in range(10):
        history.add(Landed(str(number), number, 0, None, b"", b"", (shared, Pubkey.new_unique())))
    assert [landed.signature for landed in history.touching(shared)] == ["9", "8", "7"]
    assert (len(history), history.total, history.get("6")) == (3, 10, None)
    assert len(history._by_address) == 4
