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

app = FastAPI()
# The SDK's chain code blocks. FastAPI runs plain `def` routes on threads, so the sync class is used.
facilitator = x402FacilitatorSync()
if key := os.environ.get("EVM_PRIVATE_KEY"):
    evm = FacilitatorWeb3Signer(private_key=key, rpc_url=os.environ["EVM_RPC_URL"])
    register_exact_evm_facilitator(facilitator, evm, os.environ.get("EVM_NETWORK", "eip155:84532"))
if key := os.environ.get("SVM_PRIVATE_KEY"):
    svm = FacilitatorKeypairSigner.from_base58(key, rpc_url=os.environ["SVM_RPC_URL"])
    register_exact_svm_facilitator(facilitator, svm, os.environ.get("SVM_NETWORK", SOLANA_DEVNET))


class FacilitationBody(BaseModel):
    """What a resource server posts to /verify and /settle, in the spelling of the wire."""

    paymentPayload: dict[str, Any]
    paymentRequirements: dict[str, Any]


def decide(step: str, body: FacilitationBody) -> dict[str, Any]:
    """Runs one step of the SDK; what it raises becomes a 500, as in its own example."""
    try:
        payload = parse_payment_payload(body.paymentPayload)
        model = PaymentRequirementsV1 if payload.x402_version == 1 else PaymentRequirements
        answer = getattr(facilitator, step)(payload, model.model_validate(body.paymentRequirements))
        decided: dict[str, Any] = answer.model_dump(by_alias=True, exclude_none=True)
        return decided
    except Exception as error:
        raise HTTPException(status_code=500, detail=f"{type(error).__name__}: {error}") from error


@app.post("/verify")
def verify(body: FacilitationBody) -> dict[str, Any]:
    return decide("verify", body)


@app.post("/settle")
def settle(body: FacilitationBody) -> dict[str, Any]:
    return decide("settle", body)


@app.get("/supported")
def supported() -> dict[str, Any]:
    answer: dict[str, Any] = facilitator.get_supported().model_dump(by_alias=True, exclude_none=True)
    return answer


if __name__ == "__main__":
    serve(app)
