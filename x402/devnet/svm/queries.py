"""The Solana devnet's RPC methods that read: cluster, accounts and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from solders.account import Account
from solders.hash import Hash, ParseHashError
from solders.pubkey import Pubkey

from x402.devnet.svm.bank import SLOTS_PER_EPOCH, Bank
from x402.devnet.svm.fees import priced_fee
from x402.devnet.svm.history import Json
from x402.devnet.svm.params import (
    SLOT_NOT_REACHED,
    Params,
    RpcError,
    address,
    data_slice,
    invalid,
    message,
    unsigned,
    word,
)
from x402.devnet.svm.render import account_json
from x402.devnet.svm.tokens import TOKEN_PROGRAMS, amount_json, decimals_of, mint, token_account

GENESIS_HASH = "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG"
"""The genesis hash of the public devnet; its first 32 characters are the CAIP-2 reference."""

VERSION = "2.3.0"
Method = Callable[[Params], Json]

_MAX_ACCOUNTS = 100
_MAX_SPACE = 2**32


def in_context(bank: Bank, value: Json) -> Json:
    """`value` in the envelope with the slot that most answers come in."""
    return {"context": {"apiVersion": VERSION, "slot": bank.tick()}, "value": value}


def check_slot(bank: Bank, config: Mapping[str, Any]) -> None:
    """Honour `minContextSlot`. Raises `RpcError` -32016 when the chain is not there yet."""
    wanted = config.get("minContextSlot")
    if wanted is not None and unsigned(wanted, "minContextSlot") > bank.tick():
        raise RpcError(SLOT_NOT_REACHED, "Minimum context slot has not been reached", {"contextSlot": bank.slot})


class Cluster:
    """Health, time and blockhashes."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self.methods: Mapping[str, Method] = {
            "getHealth": lambda params: "ok",
            "getVersion": lambda params: {"solana-core": VERSION, "feature-set": 0},
            "getGenesisHash": lambda params: GENESIS_HASH,
            "getSlot": self.get_slot,
            "getBlockHeight": self.get_block_height,
            "getEpochInfo": self.get_epoch_info,
            "getTransactionCount": lambda params: bank.history.total,
            "getLatestBlockhash": self.get_latest_blockhash,
            "isBlockhashValid": self.is_blockhash_valid,
            "getFeeForMessage": self.get_fee_for_message,
            "getRecentPrioritizationFees": lambda params: [{"slot": bank.tick(), "prioritizationFee": 0}],
            "getMinimumBalanceForRentExemption": self.get_rent_exemption,
        }

    def get_slot(self, params: Params) -> Json:
        check_slot(self._bank, params.config(0))
        return self._bank.tick()

    def get_block_height(self, params: Params) -> Json:
        check_slot(self._bank, params.config(0))
        self._bank.tick()
        return self._bank.height

    def get_epoch_info(self, params: Params) -> Json:
        slot = self._bank.tick()
        return {
            "absoluteSlot": slot,
            "blockHeight": self._bank.height,
            "epoch": slot // SLOTS_PER_EPOCH,
            "slotIndex": slot % SLOTS_PER_EPOCH,
            "slotsInEpoch": SLOTS_PER_EPOCH,
            "transactionCount": self._bank.history.total,
        }

    def get_latest_blockhash(self, params: Params) -> Json:
        check_slot(self._bank, params.config(0))
        self._bank.tick()
        return in_context(self._bank, blockhash_json(self._bank))

    def is_blockhash_valid(self, params: Params) -> Json:
        text = params.text(0)
        self._bank.tick()
        try:
            wanted = Hash.from_string(text)
        except ParseHashError:
            raise invalid("Invalid param: Invalid") from None
        return in_context(self._bank, self._bank.is_live(wanted))

    def get_fee_for_message(self, params: Params) -> Json:
        parsed = message(params.text(0))
        self._bank.tick()
        return in_context(self._bank, priced_fee(parsed) if self._bank.is_live(parsed.recent_blockhash) else None)

    def get_rent_exemption(self, params: Params) -> Json:
        space = params.number(0)
        if space > _MAX_SPACE:
            raise invalid(f"Invalid params: no account is larger than {_MAX_SPACE} bytes.")
        return self._bank.svm.minimum_balance_for_rent_exemption(space)


def blockhash_json(bank: Bank) -> Json:
    """The latest blockhash with the last block height that accepts it."""
    latest = bank.latest_blockhash
    return {"blockhash": str(latest), "lastValidBlockHeight": bank.last_valid_height(latest)}


class Accounts:
    """Lamports, account data, and SPL Token balances."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self.methods: Mapping[str, Method] = {
            "getBalance": self.get_balance,
            "getAccountInfo": self.get_account_info,
            "getMultipleAccounts": self.get_multiple_accounts,
            "getTokenAccountBalance": self.get_token_account_balance,
            "getTokenSupply": self.get_token_supply,
            "getTokenAccountsByOwner": self.get_token_accounts_by_owner,
        }

    def get_balance(self, params: Params) -> Json:
        owner = params.address(0)
        check_slot(self._bank, params.config(1))
        return in_context(self._bank, self._bank.svm.get_balance(owner) or 0)

    def get_account_info(self, params: Params) -> Json:
        account = self._bank.account(params.address(0))
        config = params.config(1)
        check_slot(self._bank, config)
        return in_context(self._bank, self.render(account, config, "binary"))

    def get_multiple_accounts(self, params: Params) -> Json:
        addresses = [address(text) for text in params.texts(0, _MAX_ACCOUNTS)]
        config = params.config(1)
        check_slot(self._bank, config)
        found = [self.render(self._bank.account(key), config, "base64") for key in addresses]
        return in_context(self._bank, found)

    def get_token_account_balance(self, params: Params) -> Json:
        account = self._bank.account(params.address(0))
        if account is None:
            raise invalid("Invalid param: could not find account")
        state = token_account(account)
        if state is None:
            raise invalid("Invalid param: not a Token account")
        return in_context(self._bank, amount_json(state.amount, decimals_of(self._bank.svm, state.mint)))

    def get_token_supply(self, params: Params) -> Json:
        account = self._bank.account(params.address(0))
        if account is None:
            raise invalid("Invalid param: could not find account")
        coin = mint(account)
        if coin is None:
            raise invalid("Invalid param: not a Token mint")
        return in_context(self._bank, amount_json(coin.supply, coin.decimals))

    def get_token_accounts_by_owner(self, params: Params) -> Json:
        owner = params.address(0)
        wanted = params.config(1)
        config = params.config(2)
        check_slot(self._bank, config)
        coin: Pubkey | None = None
        programs = set(TOKEN_PROGRAMS)
        if "mint" in wanted:
            coin = address(wanted["mint"])
            if mint(self._bank.account(coin)) is None:
                raise invalid("Invalid param: could not find mint")
        elif "programId" in wanted:
            programs = {address(wanted["programId"])}
            if not programs <= set(TOKEN_PROGRAMS):
                raise invalid("Invalid param: unrecognized Token program id")
        else:
            raise invalid("Invalid params: expected `mint` or `programId`.")
        found: list[Json] = []
        for key, account in self._bank.token_accounts(owner):
            state = token_account(account)
            if state is not None and account.owner in programs and coin in (None, state.mint):
                found.append({"pubkey": str(key), "account": self.render(account, config, "binary")})
        return in_context(self._bank, found)

    def render(self, account: Account | None, config: Mapping[str, Any], default: str) -> Json:
        """An account by the `encoding` and `dataSlice` of a call's configuration."""
        try:
            return account_json(self._bank.svm, account, word(config, "encoding", default), data_slice(config))
        except ValueError as error:
            raise invalid(str(error)) from None
