"""Payments and their ends on the Solana devnet, over real HTTP and through solana-py."""

from __future__ import annotations

import base64

from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed
from solders.account import Account
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message, MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from tests.devnet.svm.chain import SOL, Chain, wire
from x402.devnet.svm import USDC_MINT, SvmDevnet
from x402.devnet.svm.bank import MAX_AGE_BLOCKS, Bank
from x402.devnet.svm.encoding import base58_decode
from x402.devnet.svm.faucet import usdc_account


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
    assert refused["data"]["unitsConsumed"] > 0
    assert refused["data"]["logs"][-1].endswith("failed: custom program error: 0x1")
    # What fails in the preflight has happened to nobody.
    assert await chain.status(tx) is None
    assert await chain.devnet.lamports(str(chain.fee_payer.pubkey())) == SOL
    assert await chain.devnet.usdc_balance(str(chain.buyer.pubkey())) == 1_000_000
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
