"""The official Python SDK's asynchronous facilitator in plain coroutines, as its own example runs it.

Environment as `python_facilitator.py`. Its chain code blocks the loop; that is what is measured.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException
from python_facilitator import FacilitationBody, read, registered, told
from serving import serve

from x402 import x402Facilitator

app = FastAPI()
facilitator = registered(x402Facilitator())


async def decide(step: str, body: FacilitationBody) -> dict[str, Any]:
    """Runs one step of the SDK; what it raises becomes a 500, as in its own example."""
    try:
        return told(await getattr(facilitator, step)(*read(body)))
    except Exception as error:
        raise HTTPException(status_code=500, detail=f"{type(error).__name__}: {error}") from error


@app.post("/verify")
async def verify(body: FacilitationBody) -> dict[str, Any]:
    return await decide("verify", body)


@app.post("/settle")
async def settle(body: FacilitationBody) -> dict[str, Any]:
    return await decide("settle", body)


@app.get("/supported")
async def supported() -> dict[str, Any]:
    return told(facilitator.get_supported())


if __name__ == "__main__":
    serve(app)
