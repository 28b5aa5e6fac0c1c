"""The Solana devnet's RPC methods about transactions: simulate, send, and look back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from solders.transaction import VersionedTransaction

from x402.devnet.svm.bank import Bank, Execution, message_of
from x402.devnet.svm.faucet import Faucet, FundingRefused
from x402.devnet.svm.history import Json, Landed
from x402.devnet.svm.params import (
    INTERNAL_ERROR,
    SIGNATURE_FAILED,
    SIMULATION_FAILED,
    UNSUPPORTED_VERSION,
    Params,
    RpcError,
    address,
    flag,
    invalid,
    signature,
    transaction,
    unsigned,
    word,
)
from x402.devnet.svm.queries import Accounts, Method, blockhash_json, check_slot, in_context
from x402.devnet.svm.render import all_keys, error_text, memo_json, parse_inner, transaction_json, version

_MAX_STATUSES = 256
_MAX_SIGNATURES = 1000


class Transactions:
    """Methods that run transactions and that find them again."""

    def __init__(self, bank: Bank, accounts: Accounts, faucet: Faucet) -> None:
        self._bank = bank
        self._accounts = accounts
        self._faucet = faucet
        self.methods: Mapping[str, Method] = {
            "simulateTransaction": self.simulate,
            "sendTransaction": self.send,
            "requestAirdrop": self.request_airdrop,
            "getSignatureStatuses": self.get_signature_statuses,
            "getSignaturesForAddress": self.get_signatures_for_address,
            "getTransaction": self.get_transaction,
        }

    def simulate(self, params: Params) -> Json:
        config = params.config(1)
        tx = transaction(params.text(0), config)
        replace = flag(config, "replaceRecentBlockhash")
        if flag(config, "sigVerify"):
            if replace:
                raise invalid("sigVerify may not be used with replaceRecentBlockhash")
            _require_signatures(tx)
        check_slot(self._bank, config)
        execution = self._bank.simulate(tx, any_blockhash=replace)
        value = self._simulation_json(tx, execution, inner=flag(config, "innerInstructions"))
        value["accounts"] = self._accounts_after(execution, config)
        if replace:
            value["replacementBlockhash"] = blockhash_json(self._bank)
        return in_context(self._bank, value)

    def send(self, params: Params) -> Json:
        """Accept a transaction; without preflight a hopeless one as well, which then simply never lands."""
        config = params.config(1)
        tx = transaction(params.text(0), config)
        check_slot(self._bank, config)
        if flag(config, "skipPreflight"):
            self._bank.submit(tx)
            return str(tx.signatures[0])
        _require_signatures(tx)
        done = self._bank.submit_if_good(tx)
        if isinstance(done, Landed):
            return done.signature
        reason = f"Transaction simulation failed: {error_text(done.error)}"
        raise RpcError(SIMULATION_FAILED, reason, self._simulation_json(tx, done, inner=False))

    def request_airdrop(self, params: Params) -> Json:
        owner, lamports = params.address(0), params.number(1)
        try:
            return self._faucet.give(owner, lamports=lamports).signature
        except FundingRefused as refusal:
            raise RpcError(INTERNAL_ERROR, f"airdrop request failed: {refusal}") from None

    def get_signature_statuses(self, params: Params) -> Json:
        signatures = [signature(text) for text in params.texts(0, _MAX_STATUSES)]
        flag(params.config(1), "searchTransactionHistory")
        found = (self._bank.history.get(text) for text in signatures)
        return in_context(self._bank, [_status_json(landed) for landed in found])

    def get_signatures_for_address(self, params: Params) -> Json:
        owner = params.address(0)
        config = params.config(1)
        check_slot(self._bank, config)
        asked = config.get("limit")
        limit = _MAX_SIGNATURES if asked is None else unsigned(asked, "limit")
        if not 1 <= limit <= _MAX_SIGNATURES:
            raise invalid(f"Invalid limit; max {_MAX_SIGNATURES}")
        before = signature(config["before"]) if config.get("before") is not None else None
        until = signature(config["until"]) if config.get("until") is not None else None
        listed: list[Json] = []
        started = before is None
        for landed in self._bank.history.touching(owner):
            if landed.signature == until or len(listed) == limit:
                break
            if started:
                listed.append(_listing_json(landed))
            started = started or landed.signature == before
        return listed

    def get_transaction(self, params: Params) -> Json:
        wanted = signature(params.text(0))
        # The second parameter used to be the bare encoding, and some clients still send it so.
        legacy = params.has(1) and isinstance(params.at(1), str)
        config: Mapping[str, Any] = {"encoding": params.text(1)} if legacy else params.config(1)
        landed = self._bank.history.get(wanted)
        if landed is None:
            return None
        supported = config.get("maxSupportedTransactionVersion")
        if supported is not None:
            unsigned(supported, "maxSupportedTransactionVersion")
        if supported is None and version(message_of(landed.transaction)) == 0:
            raise RpcError(
                UNSUPPORTED_VERSION,
                "Transaction version (0) is not supported by the requesting client. Please try the request "
                'again with the following configuration parameter: "maxSupportedTransactionVersion": 0',
            )
        try:
            return transaction_json(landed, word(config, "encoding", "json"))
        except ValueError as error:
            raise invalid(str(error)) from None

    def _simulation_json(self, tx: VersionedTransaction, execution: Execution, *, inner: bool) -> dict[str, Json]:
        parsed: Json = None
        if inner:
            message = message_of(tx)
            writable, readonly = self._bank.lookups(message)
            loaded = {"writable": [str(key) for key in writable], "readonly": [str(key) for key in readonly]}
            parsed = parse_inner(execution.inner, all_keys(message, loaded))
        return {
            "err": execution.error,
            "logs": execution.logs,
            "accounts": None,
            "unitsConsumed": execution.units,
            "fee": execution.fee,
            "returnData": execution.return_data,
            "innerInstructions": parsed,
        }

    def _accounts_after(self, execution: Execution, config: Mapping[str, Any]) -> Json:
        wanted = config.get("accounts")
        if wanted is None:
            return None
        if not isinstance(wanted, dict) or not isinstance(wanted.get("addresses"), list):
            raise invalid("Invalid params: `accounts` must be an object with a list of addresses.")
        keys = [address(text) for text in wanted["addresses"][:_MAX_STATUSES]]
        if execution.error is not None:
            return [None for _ in keys]
        return [
            self._accounts.render(execution.accounts.get(key) or self._bank.account(key), wanted, "base64")
            for key in keys
        ]


def _require_signatures(tx: VersionedTransaction) -> None:
    if not all(tx.verify_with_results()):
        raise RpcError(SIGNATURE_FAILED, "Transaction signature verification failure")


def _status_json(landed: Landed | None) -> Json:
    if landed is None:
        return None
    return {
        "slot": landed.slot,
        "confirmations": None,
        "err": landed.error,
        "status": {"Ok": None} if landed.error is None else {"Err": landed.error},
        "confirmationStatus": "finalized",
    }


def _listing_json(landed: Landed) -> Json:
    return {
        "signature": landed.signature,
        "slot": landed.slot,
        "err": landed.error,
        "memo": memo_json(landed),
        "blockTime": landed.block_time,
        "confirmationStatus": "finalized",
    }
