"""A Solana cluster as the ports show it: a real one, and a node that lies. Faults A14, A16, D14, E01, E14."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.keypair import Keypair

from tests.chains import SvmWorld
from tests.payments import SvmPayer, svm_requirement
from tests.ports.scripted import URL, Failure, Node
from x402.errors import MisconfiguredError, UnavailableError, X402Error
from x402.facilitator.signer import SvmSigner
from x402.networks import SOLANA_DEVNET, SOLANA_MAINNET
from x402.ports import NotSent
from x402.ports.svm import RpcSvmChain
from x402.schemes import exact_svm, exact_svm_rules
from x402.wire.payment import Payment

KEY = str(Keypair().pubkey())
SIGNATURE = "5" * 88


def chain(**says: Any) -> tuple[RpcSvmChain, Node]:
    """A cluster behind a node that says what it is told to say."""
    node = Node(**says)
    return RpcSvmChain(URL, rpc=node.rpc), node


def around(value: Any) -> dict[str, Any]:
    """A value in Solana's envelope."""
    return {"context": {"slot": 1}, "value": value}


def status(**members: Any) -> dict[str, Any]:
    """One signature status as nodes send it."""
    return {"slot": 5, "confirmations": 1, "err": None, "confirmationStatus": "confirmed"} | members


def cosigned(payment: Payment, payer: SvmSigner) -> tuple[str, bytes]:
    """The id and the bytes of a payment that its fee payer has signed."""
    assert payment.accepted is not None
    signed = exact_svm_rules.check(payment, payment.accepted, managed=frozenset({payer.address}))
    return exact_svm.cosign(signed, payer.sign_message(exact_svm.message_to_sign(signed)))


# A real one.


async def test_a_transfer_on_a_real_cluster(svm_devnet: SvmWorld) -> None:
    chain, payer, seller, sponsor = RpcSvmChain(svm_devnet.url), SvmPayer(), Keypair(), SvmSigner(Keypair())
    await svm_devnet.fund(payer.address, 900)
    await svm_devnet.fund(sponsor.address, 0, 10**9)
    await svm_devnet.open_usdc_account(str(seller.pubkey()))
    await chain.check_cluster(SOLANA_DEVNET)
    with pytest.raises(MisconfiguredError):
        await chain.check_cluster(SOLANA_MAINNET)
    recent = await chain.blockhash()
    assert recent.last_valid_block_height > await chain.block_height()
    assert await chain.is_blockhash_valid(recent.hash)
    wallet, nobody = await chain.accounts([sponsor.address, KEY])
    assert wallet is not None
    assert wallet.lamports == 10**9
    assert nobody is None

    offer = svm_requirement(str(seller.pubkey()), sponsor.address, 250)
    signature, raw = cosigned(payer.pay(offer, recent.hash), sponsor)
    assert (await chain.simulate(raw, verify_signatures=True)).error is None
    assert await chain.status(signature, timeout=1.0) is None
    assert await chain.transaction(signature) is None
    await chain.send(raw, signature)
    found = await chain.status(signature, timeout=10)
    assert found is not None
    assert found.error is None
    landed = await chain.transaction(signature)
    assert landed is not None
    assert {one.after - one.before for one in landed.balances} == {250, -250}
    assert landed.signatures[0] == signature
    assert len(landed.signatures) == 2
    [account] = {one.account for one in landed.balances if one.after < one.before}
    [listed] = [one for one in await chain.signatures_of(account) if one.signature == signature]
    assert listed.memo.startswith("[32] ")
    assert listed.time is not None
    [earlier] = await chain.signatures_of(account, limit=1, before=signature)
    assert earlier.signature != signature
    # The same bytes again are no failure; an overdraft provably went nowhere.
    await chain.send(raw, signature)
    greedy = svm_requirement(str(seller.pubkey()), sponsor.address, 10**6)
    dear, dear_raw = cosigned(payer.pay(greedy, recent.hash), sponsor)
    assert (await chain.simulate(dear_raw, verify_signatures=True)).error is not None
    with pytest.raises(NotSent) as refused:
        await chain.send(dear_raw, dear)
    assert "InstructionError" in str(refused.value)
    await chain.aclose()


# One that lies.


async def test_D14_another_cluster() -> None:
    port, node = chain(getGenesisHash="5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKqjoyHzBCYc9")
    with pytest.raises(MisconfiguredError) as refused:
        await port.check_cluster(SOLANA_DEVNET)
    assert refused.value.code == "wrong_chain"
    node.says["getGenesisHash"] = None
    with pytest.raises(UnavailableError):
        await port.check_cluster(SOLANA_DEVNET)


async def test_A16_only_what_is_confirmed_decides() -> None:
    port, node = chain()
    failure = {"InstructionError": [2, {"Custom": 1}]}
    for undecided in (
        status(confirmationStatus="processed"),
        status(confirmationStatus="processed", err=failure),
        status(confirmationStatus=None),
        None,
    ):
        node.says["getSignatureStatuses"] = around([undecided])
        assert await port.status(SIGNATURE, timeout=0.5) is None
    node.says["getSignatureStatuses"] = around([status(err=failure)])
    found = await port.status(SIGNATURE, timeout=1)
    assert found is not None
    assert found.error == '{"InstructionError":[2,{"Custom":1}]}'


async def test_E14_history_is_searched_and_statuses_are_polled_together() -> None:
    port, node = chain(getSignatureStatuses=lambda asked, _: around([status() for _ in asked]))
    found = await asyncio.gather(*(port.status(f"{number}", timeout=2) for number in range(300)))
    assert all(found)
    assert [len(params[0]) for _, params in node.heard][:2] == [256, 44]
    assert all(params[1] == {"searchTransactionHistory": True} for _, params in node.heard)


@pytest.mark.parametrize("junk", [None, [], {"value": None}, around([]), around([None, None]), around([5])])
async def test_E01_a_status_that_cannot_be_read_is_not_absence(junk: Any) -> None:
    port, _ = chain(getSignatureStatuses=junk)
    with pytest.raises(UnavailableError):
        await port.status(SIGNATURE, timeout=0.5)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Failure(-32002, "Transaction simulation failed", {"err": "BlockhashNotFound", "logs": []}), NotSent),
        (Failure(-32002, "Transaction simulation failed"), NotSent),
        (Failure(-32003, "Transaction signature verification failure"), NotSent),
        (Failure(-32602, "invalid transaction"), NotSent),
        (Failure(-32005, "Node is behind by 42 slots"), UnavailableError),
        (Failure(-32004, "Block not available"), UnavailableError),
        (Failure(429, "Too many requests"), UnavailableError),
        (Failure(-32603, "internal"), UnavailableError),
        (OSError("reset"), UnavailableError),
    ],
)
async def test_A09_only_proof_is_a_refusal(failure: Exception, kind: type[Exception]) -> None:
    port, _ = chain(sendTransaction=failure)
    with pytest.raises(kind):
        await port.send(b"raw", SIGNATURE)


@pytest.mark.parametrize(
    "failure",
    [
        Failure(-32002, "Transaction simulation failed: This transaction has already been processed", {"err": "x"}),
        Failure(-32002, "Transaction simulation failed", {"err": "AlreadyProcessed"}),
    ],
)
async def test_A10_already_processed_is_sent(failure: Failure) -> None:
    port, _ = chain(sendTransaction=failure)
    await port.send(b"raw", SIGNATURE)


async def test_accounts_must_be_as_many_as_asked_for() -> None:
    port, _ = chain(getMultipleAccounts=around([None]))
    assert await port.accounts([KEY]) == [None]
    with pytest.raises(UnavailableError):
        await port.accounts([KEY, KEY])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["confirmed", "5", KEY]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "value",
                        "err",
                        "slot",
                        "confirmationStatus",
                        "meta",
                        "transaction",
                        "message",
                        "accountKeys",
                        "data",
                    ),
                    *("loadedAddresses", "writable", "preTokenBalances", "postTokenBalances", "accountIndex", "mint"),
                    *("uiTokenAmount", "amount", "owner", "lamports", "blockhash", "lastValidBlockHeight", "logs"),
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)
BALANCES = st.lists(JSON, max_size=2)
LANDED = st.fixed_dictionaries(
    {
        "slot": st.just(5) | JSON,
        "transaction": st.just({"message": {"accountKeys": [KEY]}}) | JSON,
        "meta": JSON
        | st.fixed_dictionaries(
            {"err": JSON, "preTokenBalances": JSON | BALANCES, "postTokenBalances": JSON | BALANCES},
            optional={"loadedAddresses": JSON},
        ),
    }
)


@settings(max_examples=400, deadline=None)
@given(JSON | LANDED | JSON.map(around) | JSON.map(lambda one: around([one])))
def test_whatever_a_node_answers_is_typed(junk: Any) -> None:
    class Everything(dict[str, Any]):
        def get(self, *_: Any) -> Any:
            return junk

    async def ask() -> None:
        port, node = chain()
        node.says = Everything()
        calls: dict[str, Any] = {
            "check_cluster": port.check_cluster(SOLANA_DEVNET),
            "blockhash": port.blockhash(),
            "block_height": port.block_height(),
            "is_blockhash_valid": port.is_blockhash_valid(KEY),
            "accounts": port.accounts([KEY]),
            "simulate": port.simulate(b"raw", verify_signatures=False),
            "send": port.send(b"raw", SIGNATURE),
            "status": port.status(SIGNATURE, timeout=0.01),
            "transaction": port.transaction(SIGNATURE),
            "signatures_of": port.signatures_of(KEY),
        }
        results = await asyncio.gather(*calls.values(), return_exceptions=True)
        for name, result in zip(calls, results, strict=True):
            assert not isinstance(result, BaseException) or isinstance(result, X402Error), (name, result)

    asyncio.run(ask())
