"""The official Python SDK as a facilitator on Base Sepolia and Solana devnet, v2 and v1.

Environment: PORT, EVM_PRIVATE_KEY, EVM_RPC_URL, SVM_PRIVATE_KEY (base58 of 64 bytes), SVM_RPC_URL.
A chain is served only if its key is given.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from serving import serve
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.exact import register_exact_evm_facilitator
from x402.mechanisms.svm import FacilitatorKeypairSigner
from x402.mechanisms.svm.exact import register_exact_svm_facilitator
from x402.schemas import PaymentRequirements, PaymentRequirementsV1, parse_payment_payload

from x402 import x402FacilitatorSync

SOLANA_DEVNET = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"


def registered(facilitator: Any) -> Any:
    """A facilitator of the SDK, for the chains whose keys are given."""
    if key := os.environ.get("EVM_PRIVATE_KEY"):
        evm = FacilitatorWeb3Signer(private_key=key, rpc_url=os.environ["EVM_RPC_URL"])
        register_exact_evm_facilitator(facilitator, evm, os.environ.get("EVM_NETWORK", "eip155:84532"))
    if key := os.environ.get("SVM_PRIVATE_KEY"):
        svm = FacilitatorKeypairSigner.from_base58(key, rpc_url=os.environ["SVM_RPC_URL"])
        register_exact_svm_facilitator(facilitator, svm, os.environ.get("SVM_NETWORK", SOLANA_DEVNET))
    return facilitator


class FacilitationBody(BaseModel):
    """What a resource server posts to /verify and /settle, in the spelling of the wire."""

    paymentPayload: dict[str, Any]
    paymentRequirements: dict[str, Any]


def read(body: FacilitationBody) -> tuple[Any, Any]:
    """The payment and the requirement in a body, as the SDK's models."""
    payload = parse_payment_payload(body.paymentPayload)
    model = PaymentRequirementsV1 if payload.x402_version == 1 else PaymentRequirements
    return payload, model.model_validate(body.paymentRequirements)


def told(answer: Any) -> dict[str, Any]:
    """An answer of the SDK on the wire."""
    members: dict[str, Any] = answer.model_dump(by_alias=True, exclude_none=True)
    return members


def create_app(facilitator: Any) -> FastAPI:
    """The SDK's chain code blocks. FastAPI runs plain `def` routes on threads, so the sync class is used."""
    app = FastAPI()

    def decide(step: str, body: FacilitationBody) -> dict[str, Any]:
        try:
            return told(getattr(facilitator, step)(*read(body)))
        except Exception as error:
            # As in the SDK's own example.
            raise HTTPException(status_code=500, detail=f"{type(error).__name__}: {error}") from error

    @app.post("/verify")
    def verify(body: FacilitationBody) -> dict[str, Any]:
        return decide("verify", body)

    @app.post("/settle")
    def settle(body: FacilitationBody) -> dict[str, Any]:
        return decide("settle", body)

    @app.get("/supported")
    def supported() -> dict[str, Any]:
        return told(facilitator.get_supported())

    return app


if __name__ == "__main__":
    serve(create_app(registered(x402FacilitatorSync())))
