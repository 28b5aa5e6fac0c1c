"""The Solana devnet's genesis and faucet: the USDC mint, and real transactions that hand out SOL and USDC."""

from __future__ import annotations

import hashlib
import json

from solders.account import Account
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import TransferParams, transfer
from solders.token import ID as TOKEN_PROGRAM
from solders.token.associated import get_associated_token_address
from solders.token.state import Mint
from solders.transaction import VersionedTransaction

from x402 import networks
from x402.devnet.svm.bank import Bank
from x402.devnet.svm.history import Landed

USDC = networks.get(networks.SOLANA_DEVNET).usd
USDC_MINT = Pubkey.from_string(USDC.address)

_ASSOCIATED_TOKEN_PROGRAM = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
_MEMO_PROGRAM = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
_FAUCET_LAMPORTS = 10**18
_MINT_LAMPORTS = 10**9
_CREATE_IDEMPOTENT = 1
_MINT_TO = 7


FAUCET_KEY = Keypair.from_seed(hashlib.sha256(b"x402 solana devnet faucet").digest())
"""Owner of the devnet's SOL and authority of its USDC mint. Everybody knows it, and nothing real is behind it."""


class FundingRefused(Exception):
    """The chain refused the faucet's transaction, for example because the sum is below rent exemption."""


class Faucet:
    """The faucet of the devnet in this process. One in another process sends a `gift_of` through JSON-RPC."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self.keypair = FAUCET_KEY
        self._given = 0
        address = self.keypair.pubkey()
        bank.svm.set_account(address, Account(_FAUCET_LAMPORTS, b"", SYSTEM_PROGRAM))
        mint = Mint(mint_authority=address, supply=0, decimals=USDC.decimals, is_initialized=True)
        bank.svm.set_account(USDC_MINT, Account(_MINT_LAMPORTS, bytes(mint), TOKEN_PROGRAM))

    def give(self, owner: Pubkey, *, lamports: int = 0, usdc_atomic: int = 0, create_account: bool = False) -> Landed:
        """Send lamports and atomic USDC to `owner` in one real transaction, with the USDC account it needs.

        Raises `FundingRefused` when the chain does not take it; nothing was given then.
        """
        self._given += 1
        self._bank.tick()
        gift = gift_of(
            owner,
            self._bank.latest_blockhash,
            lamports=lamports,
            usdc_atomic=usdc_atomic,
            create_account=create_account,
            # The counter keeps equal gifts under one blockhash apart: they would be one transaction.
            memo=f"faucet {self._given}",
        )
        trial = self._bank.simulate(gift)
        if trial.error is not None:
            raise FundingRefused(json.dumps(trial.error))
        landed = self._bank.submit(gift)
        if landed is None or landed.error is not None:
            raise FundingRefused("the transaction did not land")
        return landed


def gift_of(
    owner: Pubkey,
    blockhash: Hash,
    *,
    lamports: int = 0,
    usdc_atomic: int = 0,
    create_account: bool = False,
    memo: str = "",
) -> VersionedTransaction:
    """The faucet's signed transaction that gives lamports and atomic USDC, with the USDC account that `owner` needs."""
    faucet = FAUCET_KEY.pubkey()
    instructions = [Instruction(_MEMO_PROGRAM, memo.encode(), [])]
    if lamports:
        instructions.append(transfer(TransferParams(from_pubkey=faucet, to_pubkey=owner, lamports=lamports)))
    if usdc_atomic or create_account:
        instructions.append(_create_usdc_account(faucet, owner))
    if usdc_atomic:
        instructions.append(_mint_to(faucet, usdc_account(owner), usdc_atomic))
    return VersionedTransaction(MessageV0.try_compile(faucet, instructions, [], blockhash), [FAUCET_KEY])


def usdc_account(owner: Pubkey) -> Pubkey:
    """The associated USDC account of `owner`, whether it exists or not."""
    return get_associated_token_address(owner, USDC_MINT)


def _create_usdc_account(payer: Pubkey, owner: Pubkey) -> Instruction:
    accounts = [
        AccountMeta(payer, is_signer=True, is_writable=True),
        AccountMeta(usdc_account(owner), is_signer=False, is_writable=True),
        AccountMeta(owner, is_signer=False, is_writable=False),
        AccountMeta(USDC_MINT, is_signer=False, is_writable=False),
        AccountMeta(SYSTEM_PROGRAM, is_signer=False, is_writable=False),
        AccountMeta(TOKEN_PROGRAM, is_signer=False, is_writable=False),
    ]
    return Instruction(_ASSOCIATED_TOKEN_PROGRAM, bytes([_CREATE_IDEMPOTENT]), accounts)


def _mint_to(authority: Pubkey, account: Pubkey, amount: int) -> Instruction:
    accounts = [
        AccountMeta(USDC_MINT, is_signer=False, is_writable=True),
        AccountMeta(account, is_signer=False, is_writable=True),
        AccountMeta(authority, is_signer=True, is_writable=False),
    ]
    return Instruction(TOKEN_PROGRAM, bytes([_MINT_TO]) + amount.to_bytes(8, "little"), accounts)
