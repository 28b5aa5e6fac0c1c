"""What must hold, whatever happens (faults §2.2). Every event that could break one is looked at when it happens; what
only the books can tell is looked at when everything is quiet."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.evm_chain import Included
from tests.simulation.parties import Cast
from tests.simulation.people import SHOP, keys
from tests.simulation.scenarios import EVM, PRICE_UNITS
from tests.simulation.svm_chain import Landed
from tests.simulation.token import Move
from tests.simulation.wire import Exchange
from x402.confirmation import parse_confirmations
from x402.gateway.offers import identity_of
from x402.lifecycle import Party
from x402.ports.account_audit import audit_accounts
from x402.ports.audit import audit
from x402.ports.ledger_reading import LedgerSnapshot
from x402.ports.unsettled import UNSETTLED
from x402.schemes import exact_svm_layout
from x402.stages import State
from x402.wire.payment import read_payment

_PAID = {
    State.SETTLED, State.DELIVERED, State.OWED, State.FINAL, State.REFUNDING, State.REFUNDED, State.CREDITED,
    State.RESTORED,
}  # fmt: skip
_QUIET_GATEWAY = {
    State.DELIVERED, State.OWED, State.REFUSED, State.RELEASED, State.REFUNDED, State.CREDITED, State.LOST,
    State.RESTORED, State.FINAL,
}  # fmt: skip
_QUIET_FACILITATOR = {State.FINAL, State.REFUSED}
_SETTLED_FOR_GOOD = {*_QUIET_FACILITATOR, State.SETTLED}
"""Where there are no reorganisations, nobody waits until a transfer is final."""


@dataclass
class Signed:
    """A payment that has left the client: for which purchase, and until when its signature lives."""

    purchase: int
    header: str
    expires_at: int


@dataclass
class Watchman:
    """Looks at everything in one run, and tells the world what is broken."""

    cast: Cast
    signed: dict[str, Signed] = field(default_factory=dict)
    services: dict[str, set[str]] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    """Payments whose whole answer has reached the client."""
    pieces: dict[str, int] = field(default_factory=dict)
    """By payment, how many pieces of a stream went out to one reader at most."""
    _going: dict[int, int] = field(default_factory=dict)
    _headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cast = self.cast
        cast.network.on_request.append(self._requested)
        cast.network.on_sent.append(self._sent)
        cast.network.on_answered.append(self._answered)
        cast.evm.on_included.append(self._included)
        cast.svm.on_landed.append(self._landed)

    # As it happens.

    def identity(self, header: str) -> str:
        """The payId in a payment header."""
        if header not in self._headers:
            payment = read_payment([("PAYMENT-SIGNATURE", header)])
            assert payment is not None
            self._headers[header] = identity_of(payment)
        return self._headers[header]

    def _requested(self, exchange: Exchange) -> None:
        if not exchange.payment or not exchange.request.url.host.endswith(SHOP):
            return
        pay_id = self.identity(exchange.payment)
        known = self.signed.get(pay_id)
        number = int(exchange.request.url.path.rpartition("/")[2])
        if known is None:
            payment = read_payment([("PAYMENT-SIGNATURE", exchange.payment)])
            assert payment is not None
            life = payment.payload.get("authorization", {}).get("validBefore")
            life = life or payment.payload.get("permit2Authorization", {}).get("deadline")
            expires = int(life) if life else self.cast.world.clock() + 60
            self.signed[pay_id] = Signed(number, exchange.payment, expires)
            self._budget()
        elif known.purchase != number:
            self._fail(f"I2 the client presents the payment of purchase {known.purchase} for purchase {number}")

    def _budget(self) -> None:
        """I6: what is signed and may still move, and what has moved, is within the budget."""
        now, budget = self.cast.world.clock(), self.cast.scenario.budget * PRICE_UNITS
        taken = self.taken()
        units = sum(
            taken.get(pay_id, PRICE_UNITS)
            for pay_id, one in self.signed.items()
            if pay_id in taken or one.expires_at > now
        )
        if units > budget:
            self._fail(f"I6 {units} units are signed and may move or have moved, and the budget is {budget}")

    def _sent(self, exchange: Exchange, message: MutableMapping[str, Any]) -> None:
        """I2, I3: what is served is paid, and for one request only."""
        if message["type"] == "http.response.body" and message.get("body") and exchange.payment:
            pay_id, gone = self.identity(exchange.payment), self._going.get(id(exchange), 0) + 1
            self._going[id(exchange)] = gone
            self.pieces[pay_id] = min(self.cast.scenario.pieces, max(gone, self.pieces.get(pay_id, 0)))
        if (
            not exchange.request.url.host.endswith(SHOP)
            or message["type"] != "http.response.start"
            or message["status"] != 200
        ):
            return
        if not exchange.payment:
            self._fail(f"I3 {exchange.label} is served without a payment")
            return
        pay_id = self.identity(exchange.payment)
        paths = self.services.setdefault(pay_id, set())
        paths.add(exchange.request.url.path)
        if len(paths) > 1:
            self._fail(f"I2 one payment is served for {sorted(paths)}")
        if not self.cast.scenario.streams and not self._was_paid(pay_id):
            self._fail(f"I3 {exchange.label} is served, and its money did not move")

    def _answered(self, exchange: Exchange) -> None:
        if exchange.payment and exchange.status == 200:
            self.answered.add(self.identity(exchange.payment))

    def _unanswered(self) -> Counter[int]:
        """By purchase, how many payments are paid and were never answered. A program that dies with its answer in hand
        buys again, and that is another call. A stream that broke off is charged for the pieces that it had, and its
        rest is never made."""
        if self.cast.scenario.streams:
            return Counter()
        refunded = {
            pay_id
            for pay_id, (state, _) in self.rows(Party.GATEWAY).items()
            if state in (State.REFUNDED, State.CREDITED)
        }
        return Counter(
            self.signed[one].purchase
            for one in self.paid_now()
            if one in self.signed and one not in self.answered and one not in refunded
        )

    def paid_for_nothing(self) -> list[int]:
        """The purchases that are paid on chain and were not served."""
        return [one.number for one in self.cast.purchases if self._unanswered()[one.number] and not one.served]

    def _was_paid(self, pay_id: str) -> bool:
        cast = self.cast
        if cast.scenario.network != EVM:
            return any(self.pay_id_of(move) == pay_id for _, move in cast.svm.moves_ever)
        required = parse_confirmations(cast.scenario.confirmations).required(PRICE_UNITS, cast.evm.asset)
        if cast.scenario.place == "remote" and cast.scenario.witness:
            # A gateway with a witness of its own believes its eyes, and has no policy about depth.
            required = 1
        if cast.evm.has_laggards():
            # Where nodes of two forks answer by turns, a transfer that both have may be held for that of the other.
            required = 1
        for transaction, move in cast.evm.moves_ever:
            if self.pay_id_of(move) == pay_id:
                included = cast.evm.find(transaction, cast.evm.head())
                depth = cast.evm.head() - included.block + 1 if included is not None else 0
                if max(depth, cast.evm.depths.get(transaction, 0)) >= required:
                    return True
        return False

    def pay_id_of(self, move: Move) -> str:
        """The payId of a transfer, `""` for one that is no payment."""
        if not move.nonce:
            return ""
        if self.cast.scenario.network != EVM:
            return exact_svm_layout.message_id(move.nonce, self.cast.svm.network.id)
        asset = self.cast.evm.asset
        return f"{asset.network}:{move.contract or asset.address}:{move.payer}:0x{move.nonce.hex()}".lower()

    def _included(self, included: Included) -> None:
        for move in included.moves:
            self._moved(move)

    def _landed(self, landed: Landed) -> None:
        if landed.move is not None:
            self._moved(landed.move)

    def _moved(self, move: Move) -> None:
        """I1, I7: nobody's managed money moves, and no purchase is paid twice."""
        mine = keys()
        if move.payer in {*(signer.address for signer in mine.signers), mine.fee_payer.address}:
            self._fail("I7 money of a managed key moves")
        for purchase, times in self._unanswered().items():
            if times > 1:
                self._fail(f"I6 purchase {purchase} is paid {times} times")

    def paid_now(self) -> list[str]:
        """The payIds whose money has moved, on the chain as it is."""
        return [pay_id for move in self.moves() if (pay_id := self.pay_id_of(move))]

    def moves(self) -> list[Move]:
        """Money that has moved, on the chain as it is."""
        if self.cast.scenario.network == EVM:
            return [move for included in self.cast.evm.history for move in included.moves]
        return [landed.move for landed in self.cast.svm.history if landed.move is not None]

    def taken(self) -> dict[str, int]:
        """What has moved for each payment, in atomic units, on the chain as it is."""
        return {pay_id: move.value for move in self.moves() if (pay_id := self.pay_id_of(move))}

    def _fail(self, words: str) -> None:
        self.cast.world.fail(words)

    # When everything is quiet.

    def rows(self, party: Party) -> dict[str, tuple[State, str]]:
        """State and stage by payId."""
        query = "SELECT pay_id, state, stage FROM payments WHERE party = ?"
        return {
            pay_id: (State(state), stage)
            for disk in self.cast.disks.values()
            if disk.commits
            for pay_id, state, stage in disk.database.raw.execute(query, (str(party),))
        }

    def is_quiet(self) -> bool:
        """Whether nobody has anything left to find out."""
        gateway = all(state in _QUIET_GATEWAY for state, _ in self.rows(Party.GATEWAY).values())
        if any(self._nonces()):
            return False
        return gateway and all(state in self._quiet() for state, _ in self.rows(Party.FACILITATOR).values())

    def _quiet(self) -> set[State]:
        return _QUIET_FACILITATOR if self.cast.world.weather.reorg else _SETTLED_FOR_GOOD

    def judge(self) -> None:
        """Everything that the books must say in the end."""
        for words in (
            *self._books(),
            *self._payments(),
            *self._nonces(),
            *self._people(),
            *self._refunds(),
            *self._amounts(),
            *self._surprises(),
        ):
            self._fail(words)

    def _books(self) -> Iterator[str]:
        """I1, I4, I5, I10, I12, I13 by the ledger's own audit: the events make the rows, by the law, and the entries
        make the balances."""
        for disk in self.cast.disks.values():
            if not disk.commits:
                continue
            snapshot = LedgerSnapshot(disk.database.connection)
            found = audit(snapshot.histories(), now=self.cast.world.clock())
            audit_accounts(snapshot.accounts(), found)
            disk.database.connection.rollback()
            for one in found.violations:
                yield f"{one.invariant} {one.party} {one.pay_id[-12:]}: {one.words}"
            yield from _unsettled(disk.database.raw)
            yield from _uncredited(disk.database.raw, self.taken(), metered=self.cast.scenario.scheme == "upto")

    def _payments(self) -> Iterator[str]:
        """I3, I4, I5: each party's rows and the chain tell the same."""
        paid = set(self.paid_now())
        for party in (Party.FACILITATOR, Party.GATEWAY):
            for pay_id, (state, stage) in self.rows(party).items():
                if pay_id in paid and state not in _PAID and state is not State.LOST:
                    yield f"I4 {pay_id[-12:]} is paid on chain, and the {party} says {state}: {stage[:120]}"
                if pay_id not in paid and state in _PAID and not self._told_lost(party, pay_id):
                    yield f"I5 the {party} says {state}, and {pay_id[-12:]} is not paid on chain: {stage[:120]}"
        quiet = {Party.GATEWAY: _QUIET_GATEWAY, Party.FACILITATOR: self._quiet()}
        for party, states in quiet.items():
            for pay_id, (state, _) in self.rows(party).items():
                if state not in states:
                    yield f"L1 {pay_id[-12:]} is still {state} at the {party}"

    def _told_lost(self, party: Party, pay_id: str) -> bool:
        """Whether a reorganisation undid the transfer for good, and the facilitator's books say so (A16). A gateway
        that has delivered does not look again."""
        if party is not Party.GATEWAY or self.cast.scenario.network != EVM:
            return False
        undone = any(
            name in self.cast.evm.undone for name, move in self.cast.evm.moves_ever if self.pay_id_of(move) == pay_id
        )
        state = self.rows(Party.FACILITATOR).get(pay_id, (None, ""))[0]
        return undone and state in (State.REFUSED, State.REVERSED)

    def _nonces(self) -> Iterator[str]:
        """I8: the next nonce that will be used is the one that the chain expects, so that nothing waits above a gap."""
        evm = self.cast.evm
        if self.cast.scenario.network != EVM:
            return
        raw = self.cast.disks["settler" if self.cast.scenario.place == "remote" else "gateway"].database.raw
        for signer in keys().signers:
            chain = evm.latest().nonces.get(signer.address, 0)
            following = _following(raw, signer.address, chain)
            if following > evm.pending_count(signer.address):
                yield f"I8 the next nonce of {signer.address[:8]} is {following}, and the chain expects {chain}"

    def _people(self) -> Iterator[str]:
        """Who has paid has got it; nobody has paid twice."""
        paid = self._unanswered()
        for purchase in self.cast.purchases:
            if paid[purchase.number] > 1 or (paid[purchase.number] and purchase.served):
                yield f"I6 purchase {purchase.number} is paid {paid[purchase.number]} times without an answer"
            elif paid[purchase.number]:
                yield f"L2 purchase {purchase.number} is paid and not served: {purchase.words[-4:]}"

    def _refunds(self) -> Iterator[str]:
        """I11: what is owed goes back once, to its payer, and nothing else does."""
        mine = keys()
        states = Counter(state for state, _ in self.rows(Party.GATEWAY).values())
        purse = {purse.address(network) for network, purse in mine.purses.items()}
        sent = [move for move in self.moves() if move.payer in purse]
        if len(sent) > states[State.REFUNDED] + states[State.REFUNDING]:
            yield f"I11 {len(sent)} refunds were paid, and {states[State.REFUNDED]} payments are refunded"
        if len(sent) < states[State.REFUNDED]:
            yield f"I11 {states[State.REFUNDED]} payments are refunded, and {len(sent)} refunds were paid"
        if any(move.payee not in (mine.buyer.evm_address, mine.buyer.svm_address) for move in sent):
            yield "I11 a refund went to somebody else"

    def _amounts(self) -> Iterator[str]:
        """B16, G03: what was taken is the price; under `upto` what was used, of a stream what its readers have got."""
        scenario = self.cast.scenario
        used = PRICE_UNITS // 2 if scenario.scheme == "upto" else PRICE_UNITS
        for pay_id, units in self.taken().items():
            most = used * self.pieces.get(pay_id, 0) // scenario.pieces if scenario.streams else used
            if units > most or (units < used and not scenario.streams):
                yield f"B16 {units} units were taken for {pay_id[-12:]}, and {most} were used"

    def _surprises(self) -> Iterator[str]:
        for words in self.cast.network.crashes_of_apps:
            yield f"X1 an app raised: {words}"
        for words in self.cast.world.loop.surprises:
            yield f"X2 the loop was surprised: {words}"


def _unsettled(raw: sqlite3.Connection) -> Iterator[str]:
    """A08: the sums that claims are compared with are what the rows say."""
    told: Counter[tuple[str, str]] = Counter()
    states = ", ".join(f"'{state}'" for state in UNSETTLED)
    query = f"SELECT network, payer, amount FROM payments WHERE party = 'gateway' AND state IN ({states})"
    for network, payer, amount in raw.execute(query):
        told[network, payer] += int(amount)
        told[network, ""] += int(amount)
    sums = raw.execute("SELECT network, payer, units FROM unsettled")
    kept = {(network, payer): int(units) for network, payer, units in sums}
    if kept != dict(told):
        yield f"A08 the sums say {kept}, the rows {dict(told)}"


def _following(raw: sqlite3.Connection, signer: str, chain: int) -> int:
    """The nonce that the next settlement will get."""
    query = "SELECT MIN(nonce) FROM returned_nonces WHERE signer = ? AND nonce >= ?"
    (lowest,) = raw.execute(query, (signer, chain)).fetchone()
    row = raw.execute("SELECT next FROM nonces WHERE signer = ?", (signer,)).fetchone()
    return max(chain, (row[0] if row else 0) if lowest is None else lowest)


def _uncredited(raw: sqlite3.Connection, taken: dict[str, int], *, metered: bool) -> Iterator[str]:
    """I13: whatever was delivered is billed, and what was taken and not used of it is credited, each in full and once.
    `taken` says what has moved for a payment; one that is not there was undone for good after it was delivered. Of what
    is `metered` no more is taken than was used, and nothing is left to credit."""
    query = """
        SELECT payments.pay_id, payments.amount, bills.charged, bills.credited, sum(account_entries.units)
        FROM payments LEFT JOIN bills ON bills.bill_id = payments.pay_id
        LEFT JOIN account_entries ON account_entries.reference = payments.pay_id AND account_entries.kind = 'credit'
        WHERE payments.party = 'gateway' AND payments.state = ? GROUP BY payments.pay_id
    """
    for pay_id, amount, charged, credited, entered in raw.execute(query, ("delivered",)):
        used = int(amount) // 2
        due = (taken.get(pay_id, charged), 0, None) if metered else (used, int(amount) - used, int(amount) - used)
        if (charged, credited, entered) != due:
            yield f"I13 {pay_id[-12:]} paid {amount}, is billed {charged}, and {entered} of {credited} are credited"
    for pay_id, amount, _, _, entered in raw.execute(query, ("credited",)):
        if entered != taken.get(pay_id, int(amount)):
            yield f"I13 {pay_id[-12:]} paid {amount} for nothing, and {entered} are credited"
