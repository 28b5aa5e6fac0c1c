"""The official Python SDK's client, step by step: microseconds a call, as one line of JSON.

The challenge comes on standard input. Runs in the SDK's own environment.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import sys
import time
from typing import Any

from eth_account import Account
from x402.http import x402HTTPClient
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact.register import register_exact_evm_client

from x402 import x402Client

CALLS, WARM = 400, 50


async def main(asked: dict[str, Any]) -> dict[str, float]:
    """The median of each step."""
    header = base64.b64encode(json.dumps(asked).encode()).decode()
    client = x402Client()
    register_exact_evm_client(client, EthAccountSigner(Account.create()))
    http = x402HTTPClient(client)
    steps: dict[str, list[float]] = {"client-read": [], "client-sign": [], "client-encode": []}
    for call in range(CALLS + WARM):
        times = [time.perf_counter()]
        required = http.get_payment_required_response({"PAYMENT-REQUIRED": header}.get, None)
        times.append(time.perf_counter())
        payload = await client.create_payment_payload(required)
        times.append(time.perf_counter())
        http.encode_payment_signature_header(payload)
        times.append(time.perf_counter())
        if call >= WARM:
            for name, begun, ended in zip(steps, times, times[1:], strict=False):
                steps[name].append(ended - begun)
    return {name: statistics.median(samples) * 1e6 for name, samples in steps.items()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.load(sys.stdin)))))
