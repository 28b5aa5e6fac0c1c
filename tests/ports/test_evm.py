"""An EVM network as the ports show it: on a real EVM, and on a node that lies. Faults A09, D14, E01, E03."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chains import EvmWorld
from tests.payments import EvmPayer, address, evm_asset, evm_requirement
from tests.ports.scripted import SECRET, URL, Failure, Node
from x402.errors import MisconfiguredError, UnavailableError, X402Error
from x402.facilitator.signer import EvmSigner
from x402.ports import NotSent
from x402.ports.evm import RpcEvmChain
from x402.schemes import exact_evm
from x402.schemes.eip1559 import EvmTransaction
from x402.schemes.evm_payment import balance_call
from x402.schemes.exact_evm import AUTHORIZATION_USED_TOPIC, SignedAuthorization

HASH = "0x" + "ab" * 32
RAW = b"\x02signed"


def chain(**says: Any) -> tuple[RpcEvmChain, Node]:
    """A chain behind a node that says what it is told to say."""
    node = Node(**says)
    return RpcEvmChain(URL, 84532, rpc=node.rpc), node


def mined(**members: Any) -> dict[str, Any]:
    """A receipt as nodes send it."""
    receipt = {"transactionHash": HASH, "blockNumber": "0x10", "status": "0x1", "logs": []}
    return receipt | members


# A real one.


async def test_reads_of_a_real_chain(evm_devnet: EvmWorld) -> None:
    chain = RpcEvmChain(evm_devnet.url, 84532)
    holder = address()
    await evm_devnet.fund(holder, 1234, 5678)
    await chain.check_chain_id()
    assert await chain.balance(holder) == 5678
    assert len(await chain.code(evm_asset().address)) > 1000
    assert await chain.transaction_count(holder) == 0
    held = await chain.call(evm_asset().address, balance_call(holder))
    assert (held.succeeded, int.from_bytes(held.data, "big")) == (True, 1234)
    fees = await chain.fees()
    assert 0 <= fees.priority_fee <= fees.max_fee
    assert abs(await chain.now() - time.time()) < 600
    assert 0 < await chain.time_of(0) <= await chain.time_of(await chain.block_number()) <= await chain.now()
    assert await chain.block_number() > 0
    assert await chain.receipt(HASH, timeout=1.0) is None
    assert not await chain.knows(HASH)
    await chain.aclose()


async def test_a_transfer_on_a_real_chain(evm_devnet: EvmWorld) -> None:
    chain, payer, offer = RpcEvmChain(evm_devnet.url, 84532), EvmPayer(), evm_requirement(amount=250)
    sender = EvmSigner("11" * 32)
    await evm_devnet.fund(payer.address, 1000)
    await evm_devnet.fund(sender.address, 0, 10**18)
    signed = exact_evm.read_payload(payer.pay(offer).payload, evm_asset())
    fees, count = await asyncio.gather(chain.fees(), chain.transaction_count(sender.address))
    fields = EvmTransaction(
        84532, count, evm_asset().address, 160_000, fees.max_fee, fees.priority_fee, signed.calldata()
    )
    transaction, raw = sender.sign_transaction(fields)
    await chain.send(raw, transaction)
    receipt = await chain.receipt(transaction, timeout=10)
    assert receipt is not None
    assert exact_evm.moved(receipt, signed)
    assert await chain.knows(transaction)
    # The same bytes again are no failure, whether they wait or are mined.
    await chain.send(raw, transaction)
    found = await chain.logs(evm_asset().address, signed.used_topics(), 0)
    assert [one for one, _ in found] == [transaction]
    assert found[0][1].topics[0] == AUTHORIZATION_USED_TOPIC
    assert await chain.logs(evm_asset().address, signed.canceled_topics(), 0) == []
    topics, block = signed.used_topics(), receipt.block
    assert await chain.logs(evm_asset().address, topics, block, block) == found
    assert await chain.logs(evm_asset().address, topics, 0, block - 1) == []
    spent = await chain.call(evm_asset().address, exact_evm.authorization_state_call(signed.authorization))
    assert int.from_bytes(spent.data, "big") == 1
    again = await chain.call(evm_asset().address, signed.calldata(), sender=sender.address)
    assert not again.succeeded
    assert "authorization is used" in again.revert
    # Another transaction under a used nonce provably went nowhere.
    other, other_raw = sender.sign_transaction(replace(fields, gas=170_000))
    with pytest.raises(NotSent):
        await chain.send(other_raw, other)
    poor = EvmSigner("22" * 32)
    nobody, nobody_raw = poor.sign_transaction(replace(fields, nonce=0))
    with pytest.raises(NotSent):
        await chain.send(nobody_raw, nobody)
    await chain.aclose()


# One that lies.


async def test_D14_another_chain() -> None:
    port, node = chain(eth_chainId="0x1")
    with pytest.raises(MisconfiguredError) as refused:
        await port.check_chain_id()
    assert refused.value.code == "wrong_chain"
    replies: tuple[Any, ...] = (None, "1", 84532, "0x", "0xzz", {}, "-0x14a34")
    for junk in replies:
        node.says["eth_chainId"] = junk
        with pytest.raises(UnavailableError):
            await port.check_chain_id()
    node.says["eth_chainId"] = "0x14a34"
    await port.check_chain_id()


@pytest.mark.parametrize(
    "wrong",
    [
        mined(transactionHash="0x" + "cd" * 32),
        mined(transactionHash=None),
        mined(blockNumber="soon"),
        mined(status=None),
        mined(status=1),
        mined(logs=None),
        mined(logs=[{"address": "0x1"}]),
        mined(logs=["junk"]),
        {},
        [],
        "0x1",
        7,
        True,
    ],
)
async def test_D14_receipts_of_something_else_are_no_receipts(wrong: Any) -> None:
    port, node = chain(eth_getTransactionReceipt=wrong)
    for seconds in (0, 0.3):
        # Junk is no absence either: nobody has said that there is no receipt (fault E01).
        with pytest.raises(UnavailableError):
            await port.receipt(HASH, timeout=seconds)
    for pending in (None, mined(blockNumber=None)):
        node.says["eth_getTransactionReceipt"] = pending
        assert await port.receipt(HASH, timeout=0) is None
    node.says["eth_getTransactionReceipt"] = mined(transactionHash=HASH.upper().replace("0X", "0x"), status="0x0")
    receipt = await port.receipt(HASH, timeout=1)
    assert receipt is not None
    assert (receipt.transaction, receipt.succeeded, receipt.block) == (HASH, False, 16)


async def test_receipts_are_polled_together() -> None:
    port, node = chain(eth_getTransactionReceipt=lambda one: mined(transactionHash=one))
    hashes = [f"0x{number:064x}" for number in range(60)]
    found = await asyncio.gather(*(port.receipt(one, timeout=2) for one in hashes))
    assert [one.transaction for one in found if one is not None] == hashes
    assert len(node.bodies) <= 2


@pytest.mark.parametrize(
    "message",
    [
        "insufficient funds for gas * price + value",
        "intrinsic gas too low",
        "replacement transaction underpriced",
        "exceeds block gas limit",
        "max fee per gas less than block base fee",
        "invalid sender",
        "nonce too high",
        "tx fee (2.00 ether) exceeds the configured cap (1.00 ether)".replace("the configured", "the configured fee"),
    ],
)
async def test_not_sent_is_a_proof(message: str) -> None:
    port, _ = chain(eth_sendRawTransaction=Failure(-32000, message.upper()))
    with pytest.raises(NotSent):
        await port.send(RAW, HASH)


@pytest.mark.parametrize(
    "failure",
    [
        Failure(-32000, "txpool is full"),
        Failure(-32603, "internal error"),
        Failure(-32005, "rate limit"),
        Failure(429, "too many requests"),
        Failure(-32000, ""),
        Failure(-32000, "context deadline exceeded"),
        Failure(-32000, "nonce tool ow"),
        OSError("reset"),
    ],
)
async def test_A09_doubt_is_no_refusal(failure: Exception) -> None:
    port, _ = chain(eth_sendRawTransaction=failure)
    with pytest.raises(UnavailableError):
        await port.send(RAW, HASH)


async def test_A09_a_used_nonce_is_ours_when_the_node_knows_the_transaction() -> None:
    port, node = chain(eth_sendRawTransaction=Failure(-32000, "nonce too low"), eth_getTransactionByHash={"hash": HASH})
    await port.send(RAW, HASH)
    node.says["eth_getTransactionByHash"] = None
    with pytest.raises(NotSent):
        await port.send(RAW, HASH)
    node.says["eth_getTransactionByHash"] = Failure(-32603, "no index")
    with pytest.raises(UnavailableError):
        await port.send(RAW, HASH)
    for known in ("already known", "ALREADY_EXISTS: already known", "known transaction: abc", "already imported"):
        node.says["eth_sendRawTransaction"] = Failure(-32000, known)
        await port.send(RAW, HASH)


async def test_reverts_are_told_from_failures() -> None:
    text = "FiatTokenV2: authorization is used or canceled"
    encoded = "0x08c379a0" + f"{32:064x}{len(text):064x}" + text.encode().hex()
    for data in (encoded, {"data": encoded}):
        port, _ = chain(eth_call=Failure(3, "execution reverted", data))
        result = await port.call(HASH[:42], b"")
        assert (result.succeeded, result.revert) == (False, text)
    unreadable: tuple[Any, ...] = (None, "0x", "0x08c379a0", "0xzz", 5, [], encoded[:100], "0x08c379a0" + "ff" * 64)
    for junk in unreadable:
        port, _ = chain(eth_call=Failure(-32000, "execution reverted: why", junk))
        result = await port.call(HASH[:42], b"")
        assert not result.succeeded
    port, _ = chain(eth_call=Failure(-32603, "header not found"))
    with pytest.raises(UnavailableError):
        await port.call(HASH[:42], b"")


async def test_E03_the_key_in_the_url_is_in_no_error() -> None:
    port, node = chain()
    node.raw = b"<html>forbidden " + URL.encode() + b"</html>"
    for work in (port.check_chain_id(), port.fees(), port.send(RAW, HASH), port.logs(HASH, [], 0)):
        with pytest.raises(UnavailableError) as unavailable:
            await work
        assert SECRET not in str(unavailable.value) + json.dumps(unavailable.value.as_json())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["0x1", "0x", HASH, "0x" + "0" * 64]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "transactionHash",
                    "blockNumber",
                    "status",
                    "logs",
                    "topics",
                    "address",
                    "data",
                    "baseFeePerGas",
                    "timestamp",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_whatever_a_node_answers_is_typed(junk: Any) -> None:
    class Everything(dict[str, Any]):
        def get(self, *_: Any) -> Any:
            return junk

    async def ask() -> None:
        port, node = chain()
        node.says = Everything()
        signed = SignedAuthorization(EvmPayer().authorize(evm_requirement()), bytes(65), evm_asset())
        calls: dict[str, Any] = {
            "code": port.code(HASH[:42]),
            "call": port.call(HASH[:42], b"x"),
            "balance": port.balance(HASH[:42]),
            "transaction_count": port.transaction_count(HASH[:42]),
            "fees": port.fees(),
            "send": port.send(RAW, HASH),
            "knows": port.knows(HASH),
            "receipt": port.receipt(HASH, timeout=0.01),
            "logs": port.logs(evm_asset().address, signed.used_topics(), 0),
            "now": port.now(),
            "time_of": port.time_of(1),
            "block_number": port.block_number(),
            "check": port.check_chain_id(),
        }
        results = await asyncio.gather(*calls.values(), return_exceptions=True)
        for name, result in zip(calls, results, strict=True):
            assert not isinstance(result, BaseException) or isinstance(result, X402Error), (name, result)

    asyncio.run(ask())
