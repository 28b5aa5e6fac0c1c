"""The devnet's EVM, spoken to over HTTP as strangers will."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import AsyncHTTPProvider, AsyncWeb3
from web3.exceptions import ContractLogicError, Web3RPCError

import contracts_abi
from x402.devnet.evm import EvmDevnet

ETHER = 10**18
TRANSFER_TOPIC = "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
AUTHORIZATION_USED_TOPIC = "98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
TRANSFER_FIELDS = [
    {"name": "from", "type": "address"},
    {"name": "to", "type": "address"},
    {"name": "value", "type": "uint256"},
    {"name": "validAfter", "type": "uint256"},
    {"name": "validBefore", "type": "uint256"},
    {"name": "nonce", "type": "bytes32"},
]


@pytest.fixture
async def evm() -> AsyncIterator[EvmDevnet]:
    async with EvmDevnet(engine="py-evm") as devnet:
        yield devnet


@pytest.fixture
async def http(evm: EvmDevnet) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=evm.url, trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
async def web3(evm: EvmDevnet) -> AsyncIterator[AsyncWeb3[Any]]:
    provider = AsyncHTTPProvider(evm.url)
    yield AsyncWeb3(provider)
    await provider.disconnect()


@pytest.fixture
async def payer(evm: EvmDevnet) -> LocalAccount:
    account: LocalAccount = Account.create()
    await evm.fund(account.address, 5_000_000, ETHER)
    return account


def token(web3: AsyncWeb3[Any], evm: EvmDevnet) -> Any:
    return web3.eth.contract(address=evm.usdc, abi=contracts_abi.load("Usdc").abi)  # type: ignore[call-overload]


def authorization(signer: LocalAccount, payee: str, **changes: Any) -> tuple[list[Any], bytes]:
    message = {
        "from": signer.address,
        "to": payee,
        "value": 1000,
        "validAfter": 0,
        "validBefore": int(time.time()) + 60,
        "nonce": secrets.token_bytes(32),
    } | changes
    domain = {
        "name": "USDC",
        "version": "2",
        "chainId": EvmDevnet.chain_id,
        "verifyingContract": EvmDevnet.usdc,
    }
    types = {"TransferWithAuthorization": TRANSFER_FIELDS}
    signed = signer.sign_typed_data(domain, types, message)
    return list(message.values()), bytes(signed.signature)


def transfer_raw(signer: LocalAccount, nonce: int, **changes: Any) -> str:
    fields: dict[str, Any] = {
        "type": 2,
        "chainId": EvmDevnet.chain_id,
        "nonce": nonce,
        "to": "0x" + "22" * 20,
        "value": 1,
        "gas": 21_000,
        "maxFeePerGas": 10**9,
        "maxPriorityFeePerGas": 10**6,
    } | changes
    return "0x" + bytes(signer.sign_transaction(fields).raw_transaction).hex()


async def call(http: httpx.AsyncClient, method: str, *params: Any) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = (await http.post("/", json=body)).json()
    assert answer["id"] == 1
    return answer


async def refused(http: httpx.AsyncClient, method: str, *params: Any) -> Any:
    answer = await call(http, method, *params)
    assert "result" not in answer
    return answer["error"]


async def result(http: httpx.AsyncClient, method: str, *params: Any) -> Any:
    answer = await call(http, method, *params)
    assert "error" not in answer, answer
    return answer["result"]


class TestChain:
    async def test_identity_in_one_batch(self, http: httpx.AsyncClient, evm: EvmDevnet) -> None:
        methods = ["eth_chainId", "net_version", "eth_syncing", "no_such_method", "eth_getCode"]
        params = {"eth_getCode": [evm.multicall3, "latest"]}
        batch = [{"jsonrpc": "2.0", "id": name, "method": name, "params": params.get(name, [])} for name in methods]
        answers = {answer["id"]: answer for answer in (await http.post("/", json=batch)).json()}
        assert answers["eth_chainId"]["result"] == hex(84532)
        assert answers["net_version"]["result"] == "84532"
        assert answers["eth_syncing"]["result"] is False
        assert answers["no_such_method"]["error"]["code"] == -32601
        assert answers["eth_getCode"]["result"] == "0x" + contracts_abi.load("Multicall3").runtime.hex()

    async def test_block_chainid_inside_the_evm(self, web3: AsyncWeb3[Any], evm: EvmDevnet) -> None:
        multicall = web3.eth.contract(address=evm.multicall3, abi=contracts_abi.load("Multicall3").abi)  # type: ignore[call-overload]
        assert await multicall.functions.getChainId().call() == 84532

    async def test_clock_is_the_wall_clock_in_blocks_and_calls(self, web3: AsyncWeb3[Any], evm: EvmDevnet) -> None:
        multicall = web3.eth.contract(address=evm.multicall3, abi=contracts_abi.load("Multicall3").abi)  # type: ignore[call-overload]
        for _ in range(20):
            await evm.request("evm_mine")
        block = await web3.eth.get_block("latest")
        assert abs(block["timestamp"] - time.time()) <= 2
        before = int(time.time())
        await asyncio.sleep(1.1)
        assert await multicall.functions.getCurrentBlockTimestamp().call() > before

    async def test_confirmations_come_by_themselves(self, http: httpx.AsyncClient, evm: EvmDevnet) -> None:
        first = int(await result(http, "eth_blockNumber"), 16)
        await evm.request("evm_increaseTime", 3)
        assert int(await result(http, "eth_blockNumber"), 16) == first + 1

    async def test_block_time(self) -> None:
        evm = EvmDevnet(engine="py-evm")
        await evm.start(block_time=0.1)
        try:
            account: LocalAccount = Account.create()
            started = time.monotonic()
            await evm.fund(account.address, 7, 0)
            assert await evm.usdc_balance(account.address) == 7
            assert time.monotonic() - started < 10
        finally:
            await evm.stop()

    async def test_snapshot_and_revert(self, evm: EvmDevnet, payer: LocalAccount, http: httpx.AsyncClient) -> None:
        kept = await result(http, "evm_snapshot")
        tx_hash = await result(http, "eth_sendRawTransaction", transfer_raw(payer, 0))
        assert (await result(http, "eth_getTransactionReceipt", tx_hash))["status"] == "0x1"
        assert await result(http, "evm_revert", kept) is True
        assert await result(http, "eth_getTransactionReceipt", tx_hash) is None
        assert await evm.eth_balance(payer.address) == ETHER
        assert await result(http, "evm_revert", kept) is False
        assert await result(http, "eth_sendRawTransaction", transfer_raw(payer, 0)) == tx_hash

    async def test_cheats(self, http: httpx.AsyncClient) -> None:
        account = "0x" + "33" * 20
        await result(http, "anvil_setBalance", account, "0x64")
        await result(http, "anvil_setCode", account, "0x602a60005260206000f3")
        assert await result(http, "eth_getBalance", account, "latest") == "0x64"
        assert int(await result(http, "eth_call", {"to": account}, "latest"), 16) == 42
        overridden = {account: {"code": "0x602b60005260206000f3"}}
        assert int(await result(http, "eth_call", {"to": account}, "latest", overridden), 16) == 43

    async def test_a_contract_that_calls_itself_to_the_end(self, http: httpx.AsyncClient, payer: LocalAccount) -> None:
        account = "0x" + "44" * 20
        # Adds one to slot 0 (PUSH1 1, PUSH0, SLOAD, ADD, PUSH0, SSTORE), then calls itself with all its gas.
        await result(http, "anvil_setCode", account, "0x60015f54015f555f5f5f5f5f305af100")
        raw = transfer_raw(payer, 0, to=account, value=0, gas=29_000_000)
        tx_hash = await result(http, "eth_sendRawTransaction", raw)
        assert (await result(http, "eth_getTransactionReceipt", tx_hash))["status"] == "0x1"
        assert int(await result(http, "eth_getStorageAt", account, "0x0", "latest"), 16) > 300


class TestEip3009:
    @pytest.mark.parametrize("form", ["vrs", "bytes"])
    async def test_settles_with_both_events(
        self, form: str, web3: AsyncWeb3[Any], evm: EvmDevnet, payer: LocalAccount
    ) -> None:
        to = Account.create().address
        arguments, signature = authorization(payer, to, value=1234)
        usdc = token(web3, evm)
        if form == "vrs":
            arguments += [signature[64], signature[:32], signature[32:64]]
            signatures = "uint8,bytes32,bytes32"
        else:
            arguments.append(signature)
            signatures = "bytes"
        name = f"transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,{signatures})"
        transaction = await usdc.get_function_by_signature(name)(*arguments).build_transaction(
            {"from": payer.address, "nonce": await web3.eth.get_transaction_count(payer.address)}
        )
        assert "maxFeePerGas" in transaction
        signed = payer.sign_transaction(transaction)
        receipt = await web3.eth.wait_for_transaction_receipt(
            await web3.eth.send_raw_transaction(signed.raw_transaction)
        )
        assert receipt["status"] == 1
        assert receipt["type"] == 2
        assert 60_000 < receipt["gasUsed"] < 120_000
        used, moved = receipt["logs"]
        assert used["topics"][0].hex() == AUTHORIZATION_USED_TOPIC
        assert used["topics"][2] == arguments[5]
        assert moved["topics"][0].hex() == TRANSFER_TOPIC
        assert len(moved["topics"]) == 3
        assert int.from_bytes(moved["data"], "big") == 1234
        assert await evm.usdc_balance(to) == 1234
        found = await web3.eth.get_logs({"address": usdc.address, "topics": ["0x" + TRANSFER_TOPIC], "fromBlock": 0})
        assert [log["transactionHash"] for log in found][-1] == receipt["transactionHash"]
        with pytest.raises(ContractLogicError, match="authorization is used or canceled"):
            await usdc.get_function_by_signature(name)(*arguments).call()

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"validBefore": 1}, "FiatTokenV2: authorization is expired"),
            ({"validAfter": 2**40, "validBefore": 2**41}, "FiatTokenV2: authorization is not yet valid"),
            ({"value": 5_000_001}, "ERC20: transfer amount exceeds balance"),
            ({"to": "0x" + "00" * 20}, "ERC20: transfer to the zero address"),
        ],
    )
    async def test_refusals_in_words(
        self, changes: dict[str, Any], words: str, web3: AsyncWeb3[Any], evm: EvmDevnet, payer: LocalAccount
    ) -> None:
        arguments, signature = authorization(payer, Account.create().address, **changes)
        with pytest.raises(ContractLogicError, match=words):
            await token(web3, evm).functions.transferWithAuthorization(*arguments, signature).call()

    async def test_another_amount_than_signed(
        self, web3: AsyncWeb3[Any], evm: EvmDevnet, payer: LocalAccount, http: httpx.AsyncClient
    ) -> None:
        arguments, signature = authorization(payer, Account.create().address)
        arguments[2] += 1
        usdc = token(web3, evm)
        calldata = usdc.encode_abi(
            "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
            [*arguments, signature],
        )
        error = await refused(http, "eth_call", {"to": evm.usdc, "data": calldata}, "latest")
        assert error["code"] == 3
        assert error["message"] == "execution reverted: FiatTokenV2: invalid signature"
        assert error["data"].startswith("0x08c379a0")

    async def test_contract_wallet_pays(self, web3: AsyncWeb3[Any], evm: EvmDevnet, payer: LocalAccount) -> None:
        compiled = contracts_abi.load("SmartWallet")
        factory = web3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
        built = await factory.constructor(payer.address).build_transaction({"from": payer.address, "nonce": 0})
        sent = await web3.eth.send_raw_transaction(payer.sign_transaction(built).raw_transaction)
        wallet = (await web3.eth.wait_for_transaction_receipt(sent))["contractAddress"]
        assert wallet is not None
        await evm.fund(wallet, 2000, 0)
        to = Account.create().address
        arguments, signature = authorization(payer, to, **{"from": wallet})
        stranger: LocalAccount = Account.create()
        _, forged = authorization(stranger, to, **dict(zip(("from", "nonce"), (wallet, arguments[5]), strict=True)))
        usdc = token(web3, evm)
        with pytest.raises(ContractLogicError, match="invalid signature"):
            await usdc.functions.transferWithAuthorization(*arguments, forged).call()
        built = await usdc.functions.transferWithAuthorization(*arguments, signature).build_transaction(
            {"from": payer.address, "nonce": 1}
        )
        sent = await web3.eth.send_raw_transaction(payer.sign_transaction(built).raw_transaction)
        assert (await web3.eth.wait_for_transaction_receipt(sent))["status"] == 1
        assert (await evm.usdc_balance(to), await evm.usdc_balance(wallet)) == (1000, 1000)


class TestPool:
    async def test_gap_heals(self, http: httpx.AsyncClient, payer: LocalAccount) -> None:
        later = [await result(http, "eth_sendRawTransaction", transfer_raw(payer, n)) for n in (2, 1)]
        assert await result(http, "eth_getTransactionReceipt", later[0]) is None
        assert (await result(http, "eth_getTransactionByHash", later[0]))["blockNumber"] is None
        assert await result(http, "eth_getTransactionCount", payer.address, "pending") == "0x0"
        await result(http, "eth_sendRawTransaction", transfer_raw(payer, 0))
        for tx_hash in later:
            assert (await result(http, "eth_getTransactionReceipt", tx_hash))["status"] == "0x1"
        assert await result(http, "eth_getTransactionCount", payer.address, "pending") == "0x3"

    async def test_refusals_in_geths_words(self, http: httpx.AsyncClient, payer: LocalAccount) -> None:
        sent = transfer_raw(payer, 0)
        await result(http, "eth_sendRawTransaction", sent)
        await result(http, "evm_setAutomine", False)
        waiting = transfer_raw(payer, 1)
        await result(http, "eth_sendRawTransaction", waiting)
        expected = {
            sent: "nonce too low",
            waiting: "already known",
            transfer_raw(payer, 1, value=2): "replacement transaction underpriced",
            transfer_raw(payer, 2, value=2 * ETHER): "insufficient funds for gas * price + value",
            transfer_raw(payer, 2, chainId=1): "invalid chain id for signer: have 1 want 84532",
            transfer_raw(payer, 2, gas=20_000): "intrinsic gas too low",
            transfer_raw(payer, 2, maxPriorityFeePerGas=0): "transaction underpriced",
            transfer_raw(payer, 2, gas=30_000_001): "exceeds block gas limit",
            "0x03" + "c0": "transaction type not supported",
        }
        for raw, words in expected.items():
            error = await refused(http, "eth_sendRawTransaction", raw)
            assert error["code"] == -32000
            assert words in error["message"]

    async def test_replacement_wins_and_low_fee_waits(self, http: httpx.AsyncClient, payer: LocalAccount) -> None:
        cheap = transfer_raw(payer, 0, maxFeePerGas=900_000, maxPriorityFeePerGas=900_000)
        stuck = await result(http, "eth_sendRawTransaction", cheap)
        await result(http, "evm_mine")
        assert await result(http, "eth_getTransactionReceipt", stuck) is None
        assert await result(http, "eth_getTransactionCount", payer.address, "pending") == "0x1"
        dearer = await result(http, "eth_sendRawTransaction", transfer_raw(payer, 0))
        assert (await result(http, "eth_getTransactionReceipt", dearer))["status"] == "0x1"
        assert await result(http, "eth_getTransactionByHash", stuck) is None

    async def test_legacy_transaction(self, web3: AsyncWeb3[Any], payer: LocalAccount) -> None:
        fields: dict[str, Any] = {"nonce": 0, "to": payer.address, "value": 0, "gas": 21_000, "gasPrice": 10**9}
        signed = payer.sign_transaction(fields | {"chainId": 84532})
        sent = await web3.eth.send_raw_transaction(signed.raw_transaction)
        assert (await web3.eth.wait_for_transaction_receipt(sent))["effectiveGasPrice"] == 10**9
        unprotected = payer.sign_transaction(fields | {"nonce": 1})
        with pytest.raises(Web3RPCError, match="replay-protected"):
            await web3.eth.send_raw_transaction(unprotected.raw_transaction)
