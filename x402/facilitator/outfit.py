"""From settings to what guards a facilitator: its door, its budgets, its alarms. Contradictions stop it here.

What is not set depends on what is at stake: nothing is limited on test networks, where fees cost nothing, and on Base
and Solana the figures of `USUAL` hold. They assume a fee of about $0.002 for one settlement (1e12 wei on Base, 10,000
lamports on Solana): the smallest payment is worth one fee, a payer gets some thousand settlements a day, and the worst
day costs 0.05 ETH and 1 SOL. Another network with real money has no usual figures; its budgets must be set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import urlsplit

from x402 import networks
from x402.errors import MisconfiguredError
from x402.facilitator.allowance import Allowance, Caps, Failures, FeeShare
from x402.facilitator.approval_relay import ApprovalLimits, ApprovalRelay
from x402.facilitator.callers import Callers, fee_units
from x402.facilitator.door import Door
from x402.facilitator.signer import EvmSigner
from x402.ports import Clock, EvmChain, Ledger
from x402.ports.grants import GrantBook
from x402.settings import FacilitatorLimits, secret
from x402.telemetry import Telemetry

USUAL_REQUESTS_PER_MINUTE = 6_000
USUAL_MIN_AMOUNT = Decimal("0.002")


@dataclass(frozen=True, slots=True)
class Fees:
    """Fees per UTC day in whole ETH or SOL: in total, for one caller, for one payer."""

    total: Decimal | None = None
    caller: Decimal | None = None
    payer: Decimal | None = None


USUAL = {
    networks.BASE: Fees(Decimal("0.05"), Decimal("0.02"), Decimal("0.002")),
    networks.SOLANA_MAINNET: Fees(Decimal(1), Decimal("0.4"), Decimal("0.04")),
}
"""What holds on networks with real money where nothing else is set."""


def build_door(settings: FacilitatorLimits, served: Iterable[str]) -> Door:
    """Who may come in, for a facilitator of these networks (CAIP-2).

    Raises `MisconfiguredError` for a file of callers that can't be used, and for real money without one unless
    `open` says that anybody is meant (fault E06).
    """
    real = [network.title for network in map(networks.get, served) if not network.testnet]
    callers: Callers | None = None
    if settings.callers is not None:
        try:
            callers = Callers.parse(settings.callers.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise MisconfiguredError("no_callers_file", f"{settings.callers}: {type(error).__name__}") from None
    elif real and not settings.open:
        raise MisconfiguredError(
            "open_on_mainnet",
            f"anybody could have payments settled on {real[0]} at your cost: name the callers in a file "
            "(X402_FACILITATOR_CALLERS), or set X402_FACILITATOR_OPEN=1 if anybody is meant",
        )
    pace = settings.requests_per_minute or (USUAL_REQUESTS_PER_MINUTE if real else None)
    return Door(callers, requests_per_minute=pace, origins=read_origins(settings))


def build_allowance(
    settings: FacilitatorLimits, served: Iterable[str], ledger: Ledger, clock: Clock, telemetry: Telemetry
) -> Allowance:
    """The budgets of a facilitator of these networks. Raises `MisconfiguredError` for a network with real money that
    has neither a budget nor a usual one."""
    caps = {network: _caps(settings, networks.get(network)) for network in served}
    failures = Failures(settings.payer_failures, settings.payer_failure_seconds)
    return Allowance(ledger, caps, clock, failures=failures, telemetry=telemetry)


def build_ceilings(settings: FacilitatorLimits, served: Iterable[str]) -> dict[str, int]:
    """What one key should hold at most, in wei or lamports by network (fault E07)."""
    by_family = {networks.EIP155: settings.evm_balance_max, networks.SOLANA: settings.svm_balance_max}
    stated = {network: by_family[networks.get(network).family] for network in served}
    return {network: fee_units(most, network) for network, most in stated.items() if most is not None}


def build_relay(
    settings: FacilitatorLimits,
    network: str,
    chain: EvmChain,
    keys: Sequence[EvmSigner],
    grants: GrantBook | None,
    clock: Clock,
) -> ApprovalRelay | None:
    """Who sends payers' approvals on an EVM network, with gas of ours; nobody unless a key is set for that.

    Raises `MisconfiguredError` for a key that settles payments as well: its nonces and its coins are one purpose's.
    """
    key = secret(settings.approval_gas_key)
    if not key or grants is None:
        return None
    signer = EvmSigner(key.strip())
    if any(other.address == signer.address for other in keys):
        raise MisconfiguredError(
            "approval_gas_key_in_use", "X402_APPROVAL_GAS_KEY settles payments too; give approvals a key of their own"
        )
    limits = ApprovalLimits(fee_units(settings.approval_gas_max, network), settings.approval_gas_times)
    return ApprovalRelay(network, chain, grants, signer, clock, limits=limits)


def _caps(settings: FacilitatorLimits, network: networks.Network) -> Caps:
    evm = network.family == networks.EIP155
    if evm:
        stated = Fees(settings.evm_fees_per_day, settings.evm_fees_per_caller, settings.evm_fees_per_payer)
    else:
        stated = Fees(settings.svm_fees_per_day, settings.svm_fees_per_caller, settings.svm_fees_per_payer)
    usual = USUAL.get(network.id, Fees())
    if not network.testnet and usual.total is None and stated.total is None:
        raise MisconfiguredError(
            "no_fee_budget", f"say what a day on {network.title} may cost: X402_{'EVM' if evm else 'SVM'}_FEES_PER_DAY"
        )
    least = settings.min_amount
    return Caps(
        total=_units(stated.total, usual.total, network.id),
        caller=_units(stated.caller, usual.caller, network.id),
        payer=_units(stated.payer, usual.payer, network.id),
        min_amount=least if least is not None else Decimal(0) if network.testnet else USUAL_MIN_AMOUNT,
        fee_share=_fee_share(settings, settings.eth_price if evm else settings.sol_price, network),
    )


def _units(stated: Decimal | None, usual: Decimal | None, network: str) -> int | None:
    coins = usual if stated is None else stated
    return None if coins is None else fee_units(coins, network)


def _fee_share(settings: FacilitatorLimits, price: Decimal | None, network: networks.Network) -> FeeShare | None:
    if settings.fee_share is None:
        return None
    if price is None:
        raise MisconfiguredError(
            "no_coin_price", f"X402_FEE_SHARE needs a price for {network.title}: X402_ETH_PRICE, X402_SOL_PRICE"
        )
    return FeeShare(settings.fee_share, price)


def read_origins(settings: FacilitatorLimits) -> list[str]:
    """The origins whose pages may ask. Raises `MisconfiguredError` for what is none, `*` included."""
    origins = [part.strip() for part in settings.origins.split(",") if part.strip()]
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
            raise MisconfiguredError("invalid_origin", "an origin is https://host, without a path, and never *")
    return origins
