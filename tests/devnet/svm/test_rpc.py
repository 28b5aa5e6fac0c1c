"""What the Solana devnet answers: batches, encodings, subscriptions, junk, funding, ports."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
import websockets
from solders.pubkey import Pubkey
from solders.signature import Signature

from tests.devnet.svm.chain import MEMO, SOL, Chain
from x402.devnet.svm import USDC_MINT, SvmDevnet
from x402.devnet.svm.faucet import usdc_account
from x402.devnet.svm.history import History, Landed
from x402.errors import MalformedError, UnavailableError
from x402.networks import SOLANA_DEVNET


async def test_a_batch_answers_each_call_and_names_the_devnet(chain: Chain) -> None:
    methods = ["getHealth", "getGenesisHash", "getSlot", "getBlockHeight", "noSuchMethod", "getBlock"]
    batch = [{"jsonrpc": "2.0", "id": name, "method": name} for name in methods]
    by_id = {answer["id"]: answer for answer in await chain.post(batch)}
    assert by_id["getHealth"]["result"] == "ok"
    assert "solana:" + by_id["getGenesisHash"]["result"][:32] == SOLANA_DEVNET
    assert by_id["getSlot"]["result"] > by_id["getBlockHeight"]["result"]
    assert by_id["noSuchMethod"]["error"]["code"] == by_id["getBlock"]["error"]["code"] == -32601


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


def test_history_forgets_the_oldest() -> None:
    shared, history = Pubkey.new_unique(), History(3)
    for number in range(10):
        history.add(Landed(str(number), number, 0, None, b"", b"", (shared, Pubkey.new_unique())))
    assert [landed.signature for landed in history.touching(shared)] == ["9", "8", "7"]
    assert (len(history), history.total, history.get("6")) == (3, 10, None)
    assert len(history._by_address) == 4
