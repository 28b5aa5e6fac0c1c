"""Every rule for a transfer that is presented by its id, at its bounds and wrong on either side, by a scripted node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from solders.keypair import Keypair

from tests.payments import EvmPayer, address, evm_asset, evm_requirement, upto_requirement
from x402.confirmation import parse_confirmations
from x402.errors import MisconfiguredError, PendingError, RefusedError, UnavailableError, X402Error
from x402.evidence import Standing
from x402.evidence.transfers import Transfer
from x402.gateway.hash_proof import (
    HashProofs,
    asked_of,
    hash_proofs_of,
    identity_of_transfer,
    is_hash_proof,
    is_of_hash_proof,
    subject_of,
)
from x402.gateway.policy import Policy
from x402.gateway.terms import Seller, Terms
from x402.lifecycle import Outcome, Subject
from x402.money import Asset
from x402.networks import BASE, BASE_SEPOLIA, SOLANA_DEVNET
from x402.quote import request_digest
from x402.schemes import eip712, sign_in
from x402.stages import Settled
from x402.wire.challenge import Requirement
from x402.wire.facilitation import Supported
from x402.wire.hash_proof import HashProof, binding_text
from x402.wire.payment import Payment

NOW, PRICE, SECONDS = 1_800_000_000, 10_000, 300
TERMS = Terms(price="$0.01")
REQUEST = request_digest("GET", "/report", b"")
PAYER, KEYPAIR = EvmPayer(), Keypair()
SELLER, SVM_SELLER = address(), str(Keypair().pubkey())
LOW, HIGH = eip712.checksum("0x" + "00" * 19 + "07"), eip712.checksum("0x" + "ff" * 20)
"""Addresses before and after every other's in the alphabet."""
TRANSACTION, OTHER = "0x" + "5a" * 32, "0x" + "a5" * 32
PAID = Transfer(
    TRANSACTION, PAYER.address, SELLER, evm_asset().address, PRICE, 70, time=NOW - 5, standing=Standing(9, final=True)
)  # fmt: skip
DEEP = {"eip155": parse_confirmations("0=3,10=12")}


@dataclass
class Node:
    """Implements `Transfers` by heart: an exception for what can't be shown."""

    shown: dict[str, Transfer | Exception] = field(default_factory=dict)
    final: int = 0
    asked: list[str] = field(default_factory=list)

    async def find(self, transaction: str, payee: str, asset: Asset) -> Transfer:
        self.asked.append(f"find {payee} {asset.address}")
        found = self.shown.get(transaction) or PendingError("not shown yet", transaction=transaction)
        if isinstance(found, Exception):
            raise found
        return found

    async def finalized(self) -> int:
        self.asked.append("finalized")
        return self.final


def proofs(node: Node, *, pay_to: Mapping[str, str] | None = None) -> HashProofs:
    seller = Seller(pay_to=pay_to or {BASE_SEPOLIA: SELLER}, max_timeout_seconds=77)
    limits = Policy(hash_proof_seconds=SECONDS, confirmations=DEEP)
    return HashProofs({BASE_SEPOLIA: node, SOLANA_DEVNET: node}, seller, limits, lambda: NOW)


def proof(
    payer: EvmPayer = PAYER, *, network: str = BASE_SEPOLIA, transaction: str = TRANSACTION, request: str = REQUEST
) -> HashProof:
    """What an EVM payer presents; the members change what is signed, and never what is presented."""
    text = binding_text(network, transaction, request)
    return HashProof(BASE_SEPOLIA, TRANSACTION, "0x" + eip712.sign(payer.key, sign_in.evm_digest(text)).hex())


async def paid(**changed: Any) -> Payment:
    """The payment that a transfer of the payer's is."""
    return await proofs(Node({TRANSACTION: replace(PAID, **changed)})).present(proof(), REQUEST)


async def refusal(transfer: Transfer, presented: HashProof) -> str:
    """The code with which a transfer is refused for the request, `""` when it passes."""
    taking = proofs(Node({TRANSACTION: transfer}), pay_to={BASE_SEPOLIA: SELLER, SOLANA_DEVNET: SVM_SELLER})
    try:
        await taking.present(presented, REQUEST)
    except X402Error as error:
        return error.code
    return ""


async def test_control_a_payment_says_what_the_chain_shows() -> None:
    node = Node({TRANSACTION: PAID})
    payment = await proofs(node).present(proof(), REQUEST)
    asset = evm_asset().address
    assert node.asked == [f"find {SELLER} {asset}"]
    assert payment.payload == {
        "transaction": TRANSACTION, "payer": PAYER.address, "asset": asset, "payTo": SELLER, "amount": "10000",
        "time": NOW - 5, "block": 70,
    }  # fmt: skip
    shape: dict[str, Any] = {
        "scheme": "hash-proof", "network": BASE_SEPOLIA, "amount": PRICE, "asset": asset, "pay_to": SELLER,
        "max_timeout_seconds": 77,
    }  # fmt: skip
    assert payment.accepted == Requirement(**shape)
    extra = {"paymentFlow": "upfront", "asked": "10000"}
    asked = proofs(node).requirement(payment, TERMS)
    assert asked == Requirement(**shape, extra=extra)
    verdict = await proofs(node).verify(payment, asked)
    assert (verdict.is_valid, verdict.payer) == (True, PAYER.address)


async def test_it_says_of_itself_that_it_reads_the_chain_and_offers_nothing() -> None:
    taking = proofs(Node())
    assert (taking.name, taking.in_process) == ("hash-proof", True)
    assert await taking.supported() == Supported()


@pytest.mark.parametrize(("units", "taken"), [(0, False), (9_999, False), (10_000, True), (10_001, True)])
async def test_B03_a_transfer_is_at_least_the_price(units: int, taken: bool) -> None:
    payment = await paid(amount=units)
    if taken:
        asked = proofs(Node()).requirement(payment, TERMS)
        assert (asked.amount, asked.extra["asked"], asked_of(asked)) == (units, "10000", PRICE)
        return
    with pytest.raises(RefusedError, match="the transfer is lower than the price") as refused:
        proofs(Node()).requirement(payment, TERMS)
    assert refused.value.code == "invalid_payment_amount"
    assert refused.value.details == {"required": "10000", "received": str(units), "unit": "atomic"}


@pytest.mark.parametrize(("age", "taken"), [(-30, True), (0, True), (299, True), (300, True), (301, False)])
async def test_a_transfer_is_taken_for_so_many_seconds_after_its_block(age: int, taken: bool) -> None:
    payment = await paid(time=NOW - age)
    if taken:
        assert proofs(Node()).requirement(payment, TERMS).amount == PRICE
        return
    with pytest.raises(RefusedError, match="taken for 300 seconds after its block") as refused:
        proofs(Node()).requirement(payment, TERMS)
    assert refused.value.code == "transfer_too_old"


async def test_a_transfer_that_is_too_low_and_too_old_is_told_the_price_first() -> None:
    payment = await paid(amount=1, time=0)
    with pytest.raises(RefusedError) as refused:
        proofs(Node()).requirement(payment, TERMS)
    assert refused.value.code == "invalid_payment_amount"


@pytest.mark.parametrize(
    ("units", "standing", "taken"),
    [
        (PRICE, Standing(2), False),
        (PRICE, Standing(3), True),
        (PRICE, Standing(4), True),
        (PRICE, Standing(1, final=True), True),
        (9_999_999, Standing(3), True),
        (10_000_000, Standing(11), False),
        (10_000_000, Standing(12), True),
        (10_000_000, Standing(13), True),
    ],
)
async def test_A16_a_transfer_counts_from_the_depth_of_its_amount_on(
    units: int, standing: Standing, taken: bool
) -> None:
    found = replace(PAID, amount=units, standing=standing)
    node = Node({TRANSACTION: found})
    payment, subject = await paid(amount=units), subject_of(*await twice(amount=units))
    receipt, judged = await proofs(node).settle(payment, evm_requirement()), await proofs(node).judge(subject, [OTHER])
    assert judged is None
    judged = await proofs(node).judge(subject, [TRANSACTION])
    if taken:
        assert (await proofs(node).present(proof(), REQUEST)).payload == payment.payload
        assert (receipt.outcome, judged) == (Outcome.SETTLED, Settled(TRANSACTION, 70))
    else:
        with pytest.raises(PendingError, match="does not lie deep enough yet") as pending:
            await proofs(node).present(proof(), REQUEST)
        assert pending.value.transaction == TRANSACTION
        assert (receipt.outcome, judged) == (Outcome.PENDING, None)
        assert receipt.error_message == "the transfer does not lie deep enough yet"
    # How it stands is told at any depth.
    assert await proofs(node).standing(subject, Settled(TRANSACTION, 70)) == standing


async def twice(**changed: Any) -> tuple[Payment, Requirement]:
    """A payment, and what it pays for."""
    payment = await paid(**changed)
    return payment, proofs(Node()).requirement(payment, TERMS)


async def test_B02_only_the_payer_binds_a_transfer_and_to_this_very_request() -> None:
    strangers: set[bool] = set()
    assert await refusal(PAID, proof()) == ""
    while len(strangers) < 2:
        stranger = EvmPayer()
        strangers.add(stranger.address < PAYER.address)
        assert await refusal(PAID, proof(stranger)) == "unbound_transfer"
    assert await refusal(PAID, proof(network=BASE)) == "unbound_transfer"
    assert await refusal(PAID, proof(transaction=OTHER)) == "unbound_transfer"
    assert await refusal(PAID, proof(request=request_digest("GET", "/other", b""))) == "unbound_transfer"
    assert await refusal(PAID, replace(proof(), binding="no hex")) == "invalid_siwx_malformed_signature"
    assert await refusal(PAID, replace(proof(), binding="0x00")) == "unbound_transfer"
    with pytest.raises(RefusedError, match="by a memo or by X-PAYMENT-BINDING"):
        await proofs(Node({TRANSACTION: PAID})).present(replace(proof(), binding=""), REQUEST)


NAMED = REQUEST[:32].encode()


@pytest.mark.parametrize(
    ("memos", "code"),
    [
        ((), "unbound_transfer"),
        ((b"",), "unbound_transfer"),
        ((b"0" * 32,), "unbound_transfer"),
        ((b"f" * 32,), "unbound_transfer"),
        ((NAMED[:-1],), "unbound_transfer"),
        ((REQUEST[:33].encode(),), "unbound_transfer"),
        ((NAMED,), ""),
        ((b" " + NAMED + b"\n",), ""),
        ((b"a greeting", NAMED), ""),
    ],
)
async def test_B02_a_memo_binds_a_transfer_to_the_request_that_it_names(memos: tuple[bytes, ...], code: str) -> None:
    assert NAMED[:1] not in (b"0", b"f")
    signature = str(KEYPAIR.sign_message(b"a transaction"))
    transfer = replace(PAID, transaction=signature, payer=str(KEYPAIR.pubkey()), payee=SVM_SELLER, memos=memos)
    node = Node({signature: transfer})
    taking = proofs(node, pay_to={SOLANA_DEVNET: SVM_SELLER})

    async def reason(binding: str) -> str:
        try:
            await taking.present(HashProof(SOLANA_DEVNET, signature, binding), REQUEST)
        except X402Error as error:
            return error.code
        return ""

    assert await reason("") == code
    # A signature that comes along has to be the payer's, whatever a memo says.
    text = binding_text(SOLANA_DEVNET, signature, REQUEST).encode()
    assert await reason(str(Keypair().sign_message(text))) == "unbound_transfer"
    assert await reason(str(KEYPAIR.sign_message(text))) == ""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PendingError("not shown", transaction=TRANSACTION), "not shown"),
        (RefusedError("transaction_failed", "it failed"), "it failed"),
        (UnavailableError("rpc_unavailable", "nobody answers"), "nobody answers"),
    ],
)
async def test_A09_what_can_not_be_seen_again_is_pending(error: X402Error, words: str) -> None:
    payment, asked = await twice()
    receipt = await proofs(Node({TRANSACTION: error})).settle(payment, asked)
    assert (receipt.outcome, receipt.error_message) == (Outcome.PENDING, words)
    assert (receipt.transaction, receipt.network, receipt.payer) == (TRANSACTION, BASE_SEPOLIA, PAYER.address)


@pytest.mark.parametrize(
    "changed",
    [{"payer": LOW}, {"payer": HIGH}, {"amount": PRICE - 1}, {"amount": PRICE + 1}, {"payer": LOW, "amount": 1}],
)
async def test_A16_another_transfer_in_its_place_settles_nothing(changed: dict[str, Any]) -> None:
    payment, asked = await twice()
    receipt = await proofs(Node({TRANSACTION: replace(PAID, **changed)})).settle(payment, asked)
    assert (receipt.outcome, receipt.transaction, receipt.payer) == (Outcome.PENDING, TRANSACTION, PAYER.address)
    assert receipt.error_message == "the chain shows another transfer by now"
    control = await proofs(Node({TRANSACTION: PAID})).settle(payment, asked)
    assert (control.outcome, control.transaction, control.network, control.payer) == (
        Outcome.SETTLED, TRANSACTION, BASE_SEPOLIA, PAYER.address,
    )  # fmt: skip


async def test_A16_the_first_of_the_transactions_is_judged() -> None:
    subject = subject_of(*await twice())
    node = Node({TRANSACTION: PAID, OTHER: replace(PAID, transaction=OTHER, block=71)})
    assert await proofs(node).judge(subject, [TRANSACTION, OTHER]) == Settled(TRANSACTION, 70)
    assert await proofs(node).judge(subject, [OTHER, TRANSACTION]) == Settled(OTHER, 71)
    assert await proofs(node).judge(subject, [TRANSACTION]) == Settled(TRANSACTION, 70)


@pytest.mark.parametrize("error", [PendingError("not shown", transaction=OTHER), RefusedError("failed", "it failed")])
async def test_A16_what_is_not_shown_is_judged_by_nobody(error: X402Error) -> None:
    subject = subject_of(*await twice())
    assert await proofs(Node({TRANSACTION: error})).judge(subject, [TRANSACTION]) is None
    away = Node({TRANSACTION: UnavailableError("rpc_unavailable", "nobody answers")})
    with pytest.raises(UnavailableError):
        await proofs(away).judge(subject, [TRANSACTION])


@pytest.mark.parametrize("error", [PendingError("not shown", transaction=OTHER), RefusedError("failed", "it failed")])
@pytest.mark.parametrize(
    ("final", "standing"), [(0, None), (70, None), (369, None), (370, None), (371, Standing(0)), (372, Standing(0))]
)
async def test_A16_a_transfer_is_gone_three_hundred_blocks_after_its_own_became_final(
    final: int, standing: Standing | None, error: X402Error
) -> None:
    node = Node({TRANSACTION: error}, final)
    subject = subject_of(*await twice())
    assert await proofs(node).standing(subject, Settled(TRANSACTION, 70)) == standing
    assert standing is None or standing.gone


async def test_E01_the_final_block_is_asked_for_before_the_transfer() -> None:
    node, subject = Node({TRANSACTION: PAID}, 10**9), subject_of(*await twice())
    assert await proofs(node).standing(subject, Settled(TRANSACTION, 70)) == PAID.standing
    assert node.asked == ["finalized", f"find {SELLER} {evm_asset().address}"]
    away = Node({TRANSACTION: UnavailableError("rpc_unavailable", "nobody answers")}, 10**9)
    with pytest.raises(UnavailableError):
        await proofs(away).standing(subject, Settled(TRANSACTION, 70))


async def test_nothing_is_looked_for_where_the_seller_is_not_paid_or_has_no_node() -> None:
    """Two networks: one with a node and no address, the other with an address and no node."""
    node = Node({TRANSACTION: PAID})
    taking = HashProofs({SOLANA_DEVNET: node}, Seller(pay_to={BASE_SEPOLIA: SELLER}), Policy(), lambda: NOW)
    for network in (BASE_SEPOLIA, SOLANA_DEVNET, BASE):
        with pytest.raises(RefusedError, match=f"no transfer on {network} is taken here") as refused:
            await taking.present(HashProof(network, TRANSACTION), REQUEST)
        assert refused.value.code == "invalid_payment_requirements"
    subject = subject_of(*await twice())
    assert await taking.judge(subject, [TRANSACTION]) is None
    assert node.asked == []


@pytest.mark.parametrize("seconds", [1, 300])
def test_it_is_made_where_the_policy_nodes_and_accounts_are_there(seconds: int) -> None:
    seller = Seller(pay_to={BASE_SEPOLIA: SELLER, SOLANA_DEVNET: SVM_SELLER})
    node, policy = Node(), Policy(hash_proof_seconds=seconds)
    both = {BASE_SEPOLIA: node, SOLANA_DEVNET: node}
    made = hash_proofs_of(both | {BASE: node}, seller, policy, lambda: NOW, credits=True)
    assert isinstance(made, HashProofs)
    with pytest.raises(MisconfiguredError, match=r"X402_HASH_PROOF: set the RPC URL of solana:[^,]* as well$") as none:
        hash_proofs_of({BASE_SEPOLIA: node}, seller, policy, lambda: NOW, credits=True)
    assert none.value.code == "no_node"
    with pytest.raises(MisconfiguredError, match=rf"the RPC URL of {BASE_SEPOLIA}, {SOLANA_DEVNET} as well$"):
        hash_proofs_of({}, seller, policy, lambda: NOW, credits=False)
    with pytest.raises(MisconfiguredError, match="set X402_ACCOUNTS=1 as well") as no_accounts:
        hash_proofs_of(both, seller, policy, lambda: NOW, credits=False)
    assert no_accounts.value.code == "no_accounts"
    assert hash_proofs_of({}, seller, Policy(hash_proof_seconds=0), lambda: NOW, credits=False) is None


async def test_A04_a_transfer_is_one_payment_and_another_scheme_is_never_one() -> None:
    payment, asked = await twice()
    exact, metered = evm_requirement(SELLER, PRICE), upto_requirement(address(), SELLER, PRICE)
    others = [(PAYER.pay(exact), exact), (PAYER.pay_up_to(metered), metered)]
    subject = subject_of(payment, asked, fingerprint="this request")
    assert is_hash_proof(payment)
    assert is_of_hash_proof(subject)
    assert identity_of_transfer(payment) == subject.pay_id == f"{BASE_SEPOLIA}:hash-proof:{TRANSACTION}"
    assert replace(subject, record={}) == Subject(
        pay_id=subject.pay_id, network=BASE_SEPOLIA, asset=evm_asset().address, payer=PAYER.address, payee=SELLER,
        amount=PRICE, fingerprint="this request", record={},
    )  # fmt: skip
    assert subject.record["proof"] == ""
    for other, offer in others:
        assert not is_hash_proof(other)
        remembered = subject_of(other, offer, fingerprint="this request")
        assert not is_of_hash_proof(remembered)
        assert (remembered.payer, remembered.fingerprint) == (PAYER.address, "this request")
        for mixed in ((payment, offer), (other, asked)):
            with pytest.raises(RefusedError) as refused:
                subject_of(*mixed)
            assert refused.value.code == "invalid_scheme"


async def test_B17_only_a_transfer_has_a_price_below_what_was_paid() -> None:
    _, asked = await twice(amount=PRICE + 5)
    assert (asked.amount, asked_of(asked)) == (PRICE + 5, PRICE)
    assert asked_of(asked.model_copy(update={"extra": {}})) is None
    for scheme in ("exact", "upto"):
        assert asked_of(asked.model_copy(update={"scheme": scheme})) is None
