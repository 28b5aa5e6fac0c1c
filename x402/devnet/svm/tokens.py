"""SPL Token as the Solana devnet's RPC shows it: mints, token accounts, amounts; Token-2022 as well."""

from __future__ import annotations

from collections.abc import Sequence

from solders.account import Account
from solders.litesvm import LiteSVM
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM
from solders.token.state import Mint, TokenAccount, TokenAccountState

from x402 import networks
from x402.devnet.svm.history import Json

TOKEN_2022_PROGRAM = Pubkey.from_string(networks.TOKEN_2022_PROGRAM)
TOKEN_PROGRAMS = {TOKEN_PROGRAM: "spl-token", TOKEN_2022_PROGRAM: "spl-token-2022"}

_MINT_SIZE = 82
_ACCOUNT_SIZE = 165
_KIND_OF_ACCOUNT = 2


def token_account(account: Account | None) -> TokenAccount | None:
    """The token account inside an account, or None when it holds none."""
    if account is None or account.owner not in TOKEN_PROGRAMS:
        return None
    data = account.data
    # Token-2022 writes the kind behind the first 165 bytes; a plain account has exactly these.
    if len(data) < _ACCOUNT_SIZE or (len(data) > _ACCOUNT_SIZE and data[_ACCOUNT_SIZE] != _KIND_OF_ACCOUNT):
        return None
    state = TokenAccount.from_bytes(data[:_ACCOUNT_SIZE])
    return None if state.state == TokenAccountState.Uninitialized else state


def mint(account: Account | None) -> Mint | None:
    """The mint inside an account, or None when it holds none."""
    if account is None or account.owner not in TOKEN_PROGRAMS:
        return None
    data = account.data
    if len(data) != _MINT_SIZE and not (len(data) > _ACCOUNT_SIZE and data[_ACCOUNT_SIZE] == 1):
        return None
    state = Mint.from_bytes(data[:_MINT_SIZE])
    return state if state.is_initialized else None


def decimals_of(svm: LiteSVM, address: Pubkey) -> int:
    """The decimals of a mint, 0 when there is no such mint."""
    state = mint(svm.get_account(address))
    return 0 if state is None else state.decimals


def amount_json(amount: int, decimals: int) -> Json:
    """A `UiTokenAmount` for an amount in atomic units."""
    text = str(amount).rjust(decimals + 1, "0")
    if decimals:
        text = f"{text[:-decimals]}.{text[-decimals:]}".rstrip("0").rstrip(".")
    return {
        "amount": str(amount),
        "decimals": decimals,
        # The wire has a JSON number here, which loses digits; those who care about money read `amount`.
        "uiAmount": float(text) if "." in text else int(text),
        "uiAmountString": text,
    }


def token_balances(svm: LiteSVM, accounts: Sequence[Account | None]) -> list[Json]:
    """The `TransactionTokenBalance` list for a transaction's accounts, in its own order."""
    balances: list[Json] = []
    decimals: dict[Pubkey, int] = {}
    for index, account in enumerate(accounts):
        state = token_account(account)
        if state is not None and account is not None:
            if state.mint not in decimals:
                decimals[state.mint] = decimals_of(svm, state.mint)
            balances.append(
                {
                    "accountIndex": index,
                    "mint": str(state.mint),
                    "owner": str(state.owner),
                    "programId": str(account.owner),
                    "uiTokenAmount": amount_json(state.amount, decimals[state.mint]),
                }
            )
    return balances


def parsed_token_data(svm: LiteSVM, account: Account) -> Json:
    """The `jsonParsed` form of a mint or token account, or None when the account is neither."""
    parsed: Json = None
    if (state := token_account(account)) is not None:
        parsed = {"type": "account", "info": _account_info(svm, state)}
    elif (coin := mint(account)) is not None:
        parsed = {
            "type": "mint",
            "info": {
                "decimals": coin.decimals,
                "isInitialized": coin.is_initialized,
                "supply": str(coin.supply),
                "mintAuthority": _or_none(coin.mint_authority),
                "freezeAuthority": _or_none(coin.freeze_authority),
            },
        }
    if parsed is None:
        return None
    return {"program": TOKEN_PROGRAMS[account.owner], "space": len(account.data), "parsed": parsed}


def _account_info(svm: LiteSVM, state: TokenAccount) -> Json:
    decimals = decimals_of(svm, state.mint)
    info: dict[str, Json] = {
        "isNative": state.is_native is not None,
        "mint": str(state.mint),
        "owner": str(state.owner),
        "state": "frozen" if state.state == TokenAccountState.Frozen else "initialized",
        "tokenAmount": amount_json(state.amount, decimals),
    }
    if state.delegate is not None:
        info["delegate"] = str(state.delegate)
        info["delegatedAmount"] = amount_json(state.delegated_amount, decimals)
    if state.close_authority is not None:
        info["closeAuthority"] = str(state.close_authority)
    if state.is_native is not None:
        info["rentExemptReserve"] = amount_json(state.is_native, decimals)
    return info


def _or_none(address: Pubkey | None) -> str | None:
    return None if address is None else str(address)
