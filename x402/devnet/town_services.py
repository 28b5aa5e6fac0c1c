"""The town's three web services, each put together from the parts that anybody else would use."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import SecretStr
from starlette.applications import Starlette

from x402.devnet.model import create_app as create_model
from x402.devnet.model import demo_catalogue
from x402.devnet.town_parties import Parties
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.service import create_app, unix_now
from x402.facilitator.settle import LocalFacilitator
from x402.facilitator.svm_rail import SvmRail
from x402.gateway.app import create_app as create_gateway
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET, get
from x402.ports import Ledger
from x402.ports.evm import RpcEvmChain
from x402.ports.svm import RpcSvmChain
from x402.settings import FacilitatorSettings, GatewaySettings
from x402.telemetry import Telemetry


def facilitator_app(parties: Parties, evm_rpc: str, svm_rpc: str, ledger: Ledger, telemetry: Telemetry) -> Starlette:
    """The facilitator's service over the town's chains."""
    evm = RpcEvmChain(evm_rpc, get(BASE_SEPOLIA).chain_id)
    rails = (
        EvmRail(BASE_SEPOLIA, evm, [parties.evm_signer], unix_now),
        SvmRail(SOLANA_DEVNET, RpcSvmChain(svm_rpc), [parties.svm_signer], unix_now),
    )
    # Settings that are made rather than read, so that no variable of the caller's shell reaches into the town.
    settings = FacilitatorSettings.model_construct(reconcile_seconds=5)
    return create_app(settings, facilitator=LocalFacilitator(rails, ledger, telemetry=telemetry))


def model_app(delay_seconds: float) -> Starlette:
    """The demo model's server; `delay_seconds` pass between the chunks of a stream."""
    return create_model(delay_seconds=delay_seconds)


def gateway_app(
    parties: Parties,
    own_url: str,
    facilitator: str,
    model: str,
    ledger: Ledger,
    telemetry: Telemetry,
    *,
    settings: GatewaySettings | None = None,
) -> FastAPI:
    """The gateway: sells the demo model's answers, and settles through the facilitator by its URL."""
    return create_gateway(
        settings or GatewaySettings.model_construct(),
        catalogue=demo_catalogue(f"{model}/v1"),
        facilitator=facilitator,
        pay_to=parties.pay_to,
        ledger=ledger,
        public_url=own_url,
        telemetry=telemetry,
    )


def purse_settings(parties: Parties, evm_rpc: str, svm_rpc: str) -> GatewaySettings:
    """Settings of a gateway that pays out of the seller's own wallet, and asks the town's nodes."""
    evm, svm = parties.seller_keys
    return GatewaySettings.model_construct(
        evm_network=BASE_SEPOLIA,
        svm_network=SOLANA_DEVNET,
        evm_rpc_url=evm_rpc,
        svm_rpc_url=svm_rpc,
        refund_evm_private_key=SecretStr(evm),
        refund_svm_private_key=SecretStr(svm),
    )
