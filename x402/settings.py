"""The environment, read once into frozen settings. Nothing else in the project looks at environment variables.

One class per program. Every variable has the prefix `X402_`; the names that other x402 and AiMo programs use are
accepted as well, the prefixed one first. Keys are masked wherever settings are shown (fault G09).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from x402.environment import Settings, named
from x402.errors import MisconfiguredError
from x402.operator_settings import ConfigFile, OperatorSettings

_PASSWORD = re.compile(r"(?<=://)([^:/@]*):[^/]*@|([?&]password=)[^&]*")
"""In an address: behind the user's name, or among the parameters."""


class ClientSettings(Settings):
    """A paying client. Prices in US dollars, times in seconds."""

    evm_private_key: SecretStr | None = Field(
        None, validation_alias=named("X402_EVM_PRIVATE_KEY", "EVM_PRIVATE_KEY", "BLOCKRUN_WALLET_KEY")
    )
    """Secp256k1 key, 64 hex digits with or without 0x."""
    svm_private_key: SecretStr | None = Field(
        None,
        validation_alias=named("X402_SVM_PRIVATE_KEY", "SVM_PRIVATE_KEY", "SOLANA_PRIVATE_KEY", "SOLANA_WALLET_KEY"),
    )
    """Solana keypair: base58 of 64 bytes, or the JSON array of a keypair file."""
    aimo_private_key: SecretStr | None = Field(None, validation_alias=named("AIMO_PRIVATE_KEY"))
    aimo_wallet_type: str = Field("", validation_alias=named("AIMO_WALLET_TYPE"))
    """What `aimo_private_key` is: `evm` (also `ethereum`, `base`) or `svm` (also `solana`); guessed when empty."""
    wallet_file: Path | None = Field(None, validation_alias=named("X402_WALLET_FILE"))

    base_url: str = Field("", validation_alias=named("X402_BASE_URL", "AIMO_BASE_URL"))
    api_key: SecretStr | None = Field(None, validation_alias=named("X402_API_KEY", "AIMO_API_KEY"))
    proxy_key: SecretStr | None = Field(None, validation_alias=named("X402_PROXY_KEY"))
    """What programs must show to `x402 proxy`; without it only those of this machine may ask."""
    profile: str = Field("ours", validation_alias=named("X402_PROFILE"))
    """How the seller is spoken to: `ours`, `devnet-key`, `devnet-x402`, `beta-siwx` or `legacy`."""
    chain_id: str = Field("", validation_alias=named("X402_CHAIN_ID", "AIMO_CHAIN_ID"))
    """Where the wallet signs in: a CAIP-2 id, a name such as `base-sepolia`, or an EIP-155 number."""

    svm_rpc_url: str = Field("", repr=False, validation_alias=named("X402_SVM_RPC_URL", "SVM_RPC_URL"))
    """Where a recent blockhash is asked for when an offer brings none; the network's public node when empty."""
    evm_rpc_url: str = Field("", repr=False, validation_alias=named("X402_EVM_RPC_URL", "EVM_RPC_URL"))
    """The EVM node that `x402 resolve` asks; the network's public node when empty."""
    journal: str = Field("", validation_alias=named("X402_JOURNAL"))
    """The file that remembers payments; `:memory:` keeps nothing; empty means `$XDG_STATE_HOME/x402/journal.sqlite`."""
    state_home: Path | None = Field(None, validation_alias=named("XDG_STATE_HOME"))

    pay_ahead: bool = Field(True, validation_alias=named("X402_PAY_AHEAD"))
    """Whether a payment goes with the first request where a seller has announced its prices."""
    max_per_call: Decimal | None = Field(None, gt=0, validation_alias=named("X402_MAX_PER_CALL"))
    """Without it, and without a cap in the program, a call may cost $1."""
    max_per_hour: Decimal | None = Field(None, gt=0, validation_alias=named("X402_MAX_PER_HOUR"))
    max_per_day: Decimal | None = Field(None, gt=0, validation_alias=named("X402_MAX_PER_DAY"))
    max_per_host: Decimal | None = Field(None, gt=0, validation_alias=named("X402_MAX_PER_HOST"))
    """What one host may get in a day."""
    max_per_payee: Decimal | None = Field(None, gt=0, validation_alias=named("X402_MAX_PER_PAYEE"))
    """What one receiving address may get in a day."""
    host_failures: int = Field(3, ge=1, le=100, validation_alias=named("X402_HOST_FAILURES"))
    """After so many payments in a row without an answer a host is not paid any more."""
    host_cool_down_seconds: int = Field(600, ge=1, le=86_400, validation_alias=named("X402_HOST_COOL_DOWN_SECONDS"))
    """How long after the last of them one more payment is tried."""

    sign_approvals: bool = Field(False, validation_alias=named("X402_SIGN_APPROVALS"))
    """Sign an approval of Permit2 for all of a token, as a transaction that the seller's facilitator sends, where an
    offer of scheme `upto` needs one and no EIP-2612 permit does."""

    @property
    def has_wallet(self) -> bool:
        """Whether the environment names a key or a wallet file."""
        return any((self.evm_private_key, self.svm_private_key, self.aimo_private_key, self.wallet_file))

    @property
    def journal_path(self) -> str:
        """Where the journal is kept."""
        if self.journal:
            return self.journal
        home = self.state_home if self.state_home and self.state_home.is_absolute() else Path("~/.local/state")
        return str(home.expanduser() / "x402" / "journal.sqlite")


class FacilitatorLimits(Settings):
    """Who may use a facilitator, and what it spends at most. Fees are in whole ETH or SOL per UTC day; what is not set
    is unlimited on test networks, and on Base and Solana as `facilitator.outfit` says (faults C09, D13, E06, G01)."""

    callers: Path | None = Field(None, validation_alias=named("X402_FACILITATOR_CALLERS"))
    """TOML with the callers, their keys' digests and the accounts that they are paid at; anybody may ask without."""
    open: bool = Field(False, validation_alias=named("X402_FACILITATOR_OPEN"))
    """Serve anybody on networks with real money, which is refused otherwise."""
    origins: str = Field("", validation_alias=named("X402_FACILITATOR_ORIGINS"))
    """Origins whose pages may ask from a browser, separated by commas; none unless named."""
    requests_per_minute: int | None = Field(None, ge=1, validation_alias=named("X402_FACILITATOR_REQUESTS_PER_MINUTE"))
    """How many verifications, and how many settlements, one caller may ask for; an address where there are no keys."""

    evm_fees_per_day: Decimal | None = Field(None, ge=0, validation_alias=named("X402_EVM_FEES_PER_DAY"))
    evm_fees_per_caller: Decimal | None = Field(None, ge=0, validation_alias=named("X402_EVM_FEES_PER_CALLER"))
    evm_fees_per_payer: Decimal | None = Field(None, ge=0, validation_alias=named("X402_EVM_FEES_PER_PAYER"))
    svm_fees_per_day: Decimal | None = Field(None, ge=0, validation_alias=named("X402_SVM_FEES_PER_DAY"))
    svm_fees_per_caller: Decimal | None = Field(None, ge=0, validation_alias=named("X402_SVM_FEES_PER_CALLER"))
    svm_fees_per_payer: Decimal | None = Field(None, ge=0, validation_alias=named("X402_SVM_FEES_PER_PAYER"))
    min_amount: Decimal | None = Field(None, ge=0, validation_alias=named("X402_MIN_AMOUNT"))
    """The smallest payment that is settled, in dollars."""
    fee_share: Decimal | None = Field(None, gt=0, le=1, validation_alias=named("X402_FEE_SHARE"))
    """The part of a payment's value that its fee may be, by the two prices below."""
    eth_price: Decimal | None = Field(None, gt=0, validation_alias=named("X402_ETH_PRICE"))
    sol_price: Decimal | None = Field(None, gt=0, validation_alias=named("X402_SOL_PRICE"))
    payer_failures: int = Field(1, ge=0, validation_alias=named("X402_PAYER_FAILURES"))
    """How many payments of one payer may fail on chain before it has to wait; 0 for any number."""
    payer_failure_seconds: int = Field(3600, ge=1, validation_alias=named("X402_PAYER_FAILURE_SECONDS"))
    evm_balance_max: Decimal | None = Field(None, gt=0, validation_alias=named("X402_EVM_BALANCE_MAX"))
    """The most that one key should hold, in ETH; more is an alarm, and changes nothing (fault E07)."""
    svm_balance_max: Decimal | None = Field(None, gt=0, validation_alias=named("X402_SVM_BALANCE_MAX"))
    """As `evm_balance_max`, in SOL."""
    approval_gas_key: SecretStr | None = Field(None, repr=False, validation_alias=named("X402_APPROVAL_GAS_KEY"))
    """A key of its own, whose coins payers are given for their approval of Permit2 (`erc20ApprovalGasSponsoring`);
    nothing is given, and nobody's approval is sent, without it."""
    approval_gas_max: Decimal = Field(Decimal("0.0001"), gt=0, validation_alias=named("X402_APPROVAL_GAS_MAX"))
    """What one approval may cost, in ETH."""
    approval_gas_times: int = Field(2, ge=1, validation_alias=named("X402_APPROVAL_GAS_TIMES"))
    """How often a payer is given gas in its life; never again after it was used for something else."""
    supported_seconds: float = Field(5, gt=0, le=300, validation_alias=named("X402_SUPPORTED_SECONDS"))
    """How old the answer of `/supported` and the balances behind it may be."""


class FacilitatorSettings(FacilitatorLimits):
    """A facilitator. Networks are CAIP-2 ids or v1 names, separated by commas."""

    evm_private_key: SecretStr | None = Field(
        None,
        validation_alias=named("X402_FACILITATOR_EVM_PRIVATE_KEY", "FACILITATOR_EVM_PRIVATE_KEY", "EVM_PRIVATE_KEY"),
    )
    """Keys that pay gas: one, or several separated by commas."""
    svm_private_key: SecretStr | None = Field(
        None,
        validation_alias=named("X402_FACILITATOR_SVM_PRIVATE_KEY", "FACILITATOR_SVM_PRIVATE_KEY", "SVM_PRIVATE_KEY"),
    )
    evm_network: str = Field("base-sepolia", validation_alias=named("X402_EVM_NETWORK", "EVM_NETWORK"))
    svm_network: str = Field("solana-devnet", validation_alias=named("X402_SVM_NETWORK", "SVM_NETWORK"))
    evm_rpc_url: str = Field("", repr=False, validation_alias=named("X402_EVM_RPC_URL", "EVM_RPC_URL"))
    """The node of `evm_network`; the network's public node when empty."""
    svm_rpc_url: str = Field("", repr=False, validation_alias=named("X402_SVM_RPC_URL", "SVM_RPC_URL"))
    ledger: str = Field("sqlite:///x402-facilitator.sqlite", repr=False, validation_alias=named("X402_LEDGER"))
    """`sqlite:///file` or `postgresql://user:password@host/database`."""
    evm_confirmations: str = Field("0=1,10=12,1000=finalized", validation_alias=named("X402_EVM_CONFIRMATIONS"))
    """How many blocks a payment is buried under before it counts as settled, from so many dollars on."""
    svm_confirmations: str = Field("0=1,100=finalized", validation_alias=named("X402_SVM_CONFIRMATIONS"))
    """On Solana there are two depths: confirmed, which is 1, and finalized."""
    evm_bundle_gas: int = Field(10_000_000, ge=0, validation_alias=named("X402_EVM_BUNDLE_GAS"))
    """The gas of one transaction that settles several payments, at most; 0 settles each alone."""
    settle_timeout_seconds: int = Field(30, ge=1, le=300, validation_alias=named("X402_SETTLE_TIMEOUT_SECONDS"))
    reconcile_seconds: int = Field(10, ge=1, le=3600, validation_alias=named("X402_RECONCILE_SECONDS"))
    mainnet: bool = Field(False, validation_alias=named("X402_MAINNET"))
    """Networks that carry real money are refused unless this is set (design promise 8)."""
    host: str = Field("127.0.0.1", validation_alias=named("X402_HOST", "HOST"))
    port: int = Field(4022, ge=0, le=65535, validation_alias=named("X402_FACILITATOR_PORT", "PORT"))


class GatewaySettings(OperatorSettings, ConfigFile):
    """A gateway that sells models. Networks are CAIP-2 ids or v1 names; times in seconds."""

    evm_pay_to: str = Field("", validation_alias=named("X402_EVM_PAY_TO", "EVM_PAYEE_ADDRESS", "EVM_ADDRESS"))
    """Where the seller is paid on `evm_network`; not sold there when empty."""
    svm_pay_to: str = Field("", validation_alias=named("X402_SVM_PAY_TO", "SVM_PAYEE_ADDRESS", "SVM_ADDRESS"))
    evm_network: str = Field("base-sepolia", validation_alias=named("X402_EVM_NETWORK", "EVM_NETWORK"))
    svm_network: str = Field("solana-devnet", validation_alias=named("X402_SVM_NETWORK", "SVM_NETWORK"))
    facilitator_url: str = Field(
        "http://127.0.0.1:4022", validation_alias=named("X402_FACILITATOR_URL", "FACILITATOR_URL")
    )
    """Several separated by commas, the preferred one first: new offers name the next when one fails."""
    facilitator_api_key: SecretStr | None = Field(None, validation_alias=named("X402_FACILITATOR_API_KEY"))
    """Goes with every request to the facilitator, as `Authorization: Bearer`; of several, each has its own in turn."""
    price_file: Path | None = Field(None, validation_alias=named("X402_PRICES"))
    """TOML with models, prices and upstreams."""
    upstream_url: str = Field("", validation_alias=named("X402_UPSTREAM_URL", "OPENAI_BASE_URL"))
    """Without a price file: an OpenAI-compatible base URL, whose `models` are sold at their list prices."""
    upstream_api_key: SecretStr | None = Field(None, validation_alias=named("X402_UPSTREAM_API_KEY", "OPENAI_API_KEY"))
    model_names: str = Field("", validation_alias=named("X402_MODELS"))
    """Separated by commas."""
    hedge_percent: int | None = Field(None, ge=50, le=100, validation_alias=named("X402_HEDGE_PERCENT"))
    """A second provider is asked when the first is slower than it was for so many of a hundred answers; never when
    unset."""
    provider_admission: Literal["off", "review", "open"] = Field(
        "off", validation_alias=named("X402_PROVIDER_ADMISSION")
    )
    """Whether providers may register: nobody, whom the operator enables, or whoever passes the check."""
    cache_seconds: int = Field(0, ge=0, le=86_400, validation_alias=named("X402_CACHE_SECONDS"))
    """How long an answer is given again for the same request of the same payer; 0 for never."""
    cache_shared: bool = Field(False, validation_alias=named("X402_CACHE_SHARED"))
    """Give it to other payers too, who so may learn what others ask."""
    bonus_percent: int = Field(0, ge=0, le=100, validation_alias=named("X402_BONUS_PERCENT"))
    """What a provider that kept its promise is paid on top of its earnings."""
    payout_after_seconds: int = Field(3600, ge=0, validation_alias=named("X402_PAYOUT_AFTER_SECONDS"))
    payout_min: Decimal = Field(Decimal("0.01"), ge=0, validation_alias=named("X402_PAYOUT_MIN"))
    """US dollars below which a provider's earnings wait for more: the facilitator pays the fee of each payout."""
    payout_per_day: Decimal = Field(Decimal(1000), ge=0, validation_alias=named("X402_PAYOUT_PER_DAY"))
    """US dollars that providers are paid in one day, on one network, from the refund wallet."""
    """How old a bill is before its provider is paid."""
    provider_hosts: str = Field("", validation_alias=named("X402_PROVIDER_HOSTS"))
    """Hosts of registered providers that may lie in a private network, separated by commas (fault E05)."""
    ledger: str = Field(
        "sqlite:///x402-gateway.sqlite", repr=False, validation_alias=named("X402_GATEWAY_LEDGER", "X402_LEDGER")
    )
    """`sqlite:///file` or `postgresql://user:password@host/database`."""
    quote_key: SecretStr | None = Field(None, validation_alias=named("X402_QUOTE_KEY"))
    """Signs quotes: at least 16 characters; several separated by commas, the first signs and all are read. Without it
    the key file beside the SQLite ledger serves; on PostgreSQL quotes do not outlive the process."""
    public_url: str = Field("", validation_alias=named("X402_PUBLIC_URL"))
    """How clients reach the gateway, such as `https://api.example.com`."""
    max_timeout_seconds: int = Field(300, ge=30, le=3600, validation_alias=named("X402_MAX_TIMEOUT_SECONDS"))
    scheme_names: str = Field("exact,upto", validation_alias=named("X402_SCHEMES"))
    """Separated by commas, the preferred one first: `exact` takes the quoted bound, `upto` (EVM networks) what was
    used of it."""
    hash_proof: bool = Field(False, validation_alias=named("X402_HASH_PROOF"))
    """Take transfers that were made before they are presented, as `X-PAYMENT: <network>:<transaction>`."""
    hash_proof_seconds: int = Field(300, ge=1, le=3600, validation_alias=named("X402_HASH_PROOF_SECONDS"))
    """How long after its block such a transfer is taken."""
    pay_ahead_seconds: int = Field(300, ge=0, le=3600, validation_alias=named("X402_PAY_AHEAD_SECONDS"))
    """How long an announced price holds, so that the next payment comes with the first request; 0 announces none."""
    body_limit: int = Field(8 * 1024 * 1024, ge=1024, le=16 * 1024 * 1024, validation_alias=named("X402_BODY_LIMIT"))
    """Bytes of a request that are read; images in a chat make them many."""
    answer_retention_seconds: int = Field(600, ge=0, validation_alias=named("X402_ANSWER_RETENTION_SECONDS"))
    """How long a delivered answer is kept for the same payment to be sent again; 0 keeps none."""
    answer_key: SecretStr | None = Field(None, validation_alias=named("X402_ANSWER_KEY"))
    """Seals kept answers: at least 16 characters; several separated by commas, the first seals and all open. Without
    it the quote key serves, and without that a key file beside the SQLite ledger."""
    evm_rpc_url: str = Field("", validation_alias=named("X402_EVM_RPC_URL", "EVM_RPC_URL"))
    """A node of `evm_network`, to check what the facilitator says; nothing is checked when empty."""
    svm_rpc_url: str = Field("", validation_alias=named("X402_SVM_RPC_URL", "SVM_RPC_URL"))
    evm_confirmations: str = Field("0=1,10=12,1000=finalized", validation_alias=named("X402_EVM_CONFIRMATIONS"))
    svm_confirmations: str = Field("0=1,100=finalized", validation_alias=named("X402_SVM_CONFIRMATIONS"))
    """Under how many blocks our own look at the chain counts a payment, from so many dollars on."""
    check_above: Decimal = Field(Decimal(1), ge=0, validation_alias=named("X402_CHECK_ABOVE"))
    """US dollars from which every success of a foreign facilitator is looked up on chain."""
    check_percent: int = Field(5, ge=0, le=100, validation_alias=named("X402_CHECK_PERCENT"))
    """How many of a hundred cheaper ones are looked up."""
    max_unsettled: Decimal = Field(Decimal(100), ge=0, validation_alias=named("X402_MAX_UNSETTLED"))
    """US dollars that may be served and not settled at once, on one network."""
    refund_evm_private_key: SecretStr | None = Field(None, validation_alias=named("X402_REFUND_EVM_PRIVATE_KEY"))
    """Pays back what is owed on `evm_network`; nothing is paid back when empty."""
    refund_svm_private_key: SecretStr | None = Field(None, validation_alias=named("X402_REFUND_SVM_PRIVATE_KEY"))
    refund_after_seconds: int = Field(600, ge=0, validation_alias=named("X402_REFUND_AFTER_SECONDS"))
    refund_per_day: Decimal = Field(Decimal(10), ge=0, validation_alias=named("X402_REFUND_PER_DAY"))
    """US dollars that are paid back in one day, on one network."""
    accounts: bool = Field(True, validation_alias=named("X402_ACCOUNTS"))
    """Credit what is paid and not used, let wallets sign in, and take balances for payments."""
    sign_in_max_seconds: int = Field(3600, ge=60, le=3600, validation_alias=named("X402_SIGN_IN_MAX_SECONDS"))
    """How long a sign-in may live; AiMo's SDK asks for an hour."""
    deposit_max: Decimal = Field(Decimal(100), gt=0, validation_alias=named("X402_DEPOSIT_MAX"))
    """US dollars of one deposit."""
    discounts: str = Field("", validation_alias=named("X402_DISCOUNTS"))
    """Percent off answers, by dollars that the payer's account was charged in thirty days: `100=5,1000=10`."""
    deposit_bonus: str = Field("", validation_alias=named("X402_DEPOSIT_BONUS"))
    """Percent given on top of a deposit, by its dollars: `50=5`; to be spent, never paid out."""
    withdraw_per_day: Decimal = Field(Decimal(100), ge=0, validation_alias=named("X402_WITHDRAW_PER_DAY"))
    """US dollars that accounts are paid out in one day, on one network, from the refund wallet."""
    withdraw_min: Decimal = Field(Decimal("0.01"), ge=0, validation_alias=named("X402_WITHDRAW_MIN"))
    """US dollars below which nothing is paid out: the facilitator pays the fee of each."""
    mainnet: bool = Field(False, validation_alias=named("X402_MAINNET"))
    """Networks that carry real money are refused unless this is set (design promise 8)."""
    host: str = Field("127.0.0.1", validation_alias=named("X402_HOST", "HOST"))
    port: int = Field(4021, ge=0, le=65535, validation_alias=named("X402_GATEWAY_PORT", "PORT"))
    workers: int = Field(1, ge=1, le=64, validation_alias=named("X402_WORKERS"))
    """Processes that serve the port, all on one ledger."""

    @property
    def pay_to(self) -> Mapping[str, str]:
        """Receiving addresses by network. Raises `MisconfiguredError("no_pay_to")` when there is none."""
        stated = {self.evm_network: self.evm_pay_to.strip(), self.svm_network: self.svm_pay_to.strip()}
        addresses = {network: address for network, address in stated.items() if address}
        if not addresses:
            raise MisconfiguredError("no_pay_to", "set X402_EVM_PAY_TO or X402_SVM_PAY_TO to be paid")
        return addresses

    @property
    def facilitator_urls(self) -> tuple[str, ...]:
        """Where facilitators are, the preferred one first."""
        return tuple(url.strip() for url in self.facilitator_url.split(",") if url.strip())

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes in which payments are taken."""
        return tuple(name.strip() for name in self.scheme_names.split(",") if name.strip())

    @property
    def models(self) -> tuple[str, ...]:
        """The models to sell without a price file."""
        return tuple(name.strip() for name in self.model_names.split(",") if name.strip())

    @property
    def trusted_hosts(self) -> frozenset[str]:
        """`provider_hosts` one by one."""
        return frozenset(host.strip().lower() for host in self.provider_hosts.split(",") if host.strip())

    @property
    def hedge_at(self) -> float | None:
        """`hedge_percent` as a part of one."""
        return None if self.hedge_percent is None else self.hedge_percent / 100

    @property
    def quote_keys(self) -> tuple[bytes, ...]:
        """The keys that sign and read quotes; none when a fresh one is to be made."""
        return tuple(part.strip().encode() for part in secret(self.quote_key).split(",") if part.strip())

    @property
    def answer_keys(self) -> tuple[bytes, ...]:
        """The keys that seal and open kept answers. Raises `MisconfiguredError` for a short one."""
        keys = tuple(part.strip().encode() for part in secret(self.answer_key).split(",") if part.strip())
        if any(len(key) < 16 for key in keys):
            raise MisconfiguredError("invalid_settings", "X402_ANSWER_KEY: a key has at least 16 characters")
        return keys

    @property
    def rpc_urls(self) -> Mapping[str, str]:
        """The nodes to ask, by network, those of networks on which nobody is paid left out."""
        stated = {self.evm_network: self.evm_rpc_url.strip(), self.svm_network: self.svm_rpc_url.strip()}
        return {network: url for network, url in stated.items() if url}


def secret(value: SecretStr | None) -> str:
    """The text behind a masked setting, `""` when it is absent; the one place that unmasks."""
    return value.get_secret_value().strip() if value is not None else ""


def describe(settings: Settings) -> Mapping[str, str]:
    """Field names and values for a person to read, keys and passwords masked, and all of a node's URL."""
    shown = {name: without_password(str(getattr(settings, name))) for name in type(settings).model_fields}
    return {name: "**" if name.endswith("rpc_url") and value else value for name, value in shown.items()}


def without_password(address: str) -> str:
    """An address for people to read."""
    return _PASSWORD.sub(lambda found: f"{found[1]}:**@" if found[1] is not None else f"{found[2]}**", address)
