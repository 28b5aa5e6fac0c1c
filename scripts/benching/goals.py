"""What is aimed at, row by row (`docs/performance.md` says what each row means)."""

from __future__ import annotations

from benching.figures import PYTHON, TYPESCRIPT, Goal

BOTH = {PYTHON: 1.0, TYPESCRIPT: 1.0}

GOALS = (
    Goal("verify", "POST /verify, 32 at once", times={PYTHON: 10, TYPESCRIPT: 5}),
    Goal("verify-far", "the same, with a node that takes 20 ms", least=1000, then={PYTHON: 111, TYPESCRIPT: 194}),
    Goal("verify-requests", "JSON-RPC requests a verify", more=False, most=1),
    Goal("verify-requests-shared", "the same, 32 at once", more=False, most=0.5),
    Goal("verify-requests-offline", "the same, for what is invalid offline", more=False, most=0),
    Goal("settle", "POST /settle, 32 at once, a block a transaction", times={PYTHON: 3, TYPESCRIPT: 3}),
    Goal("settle-blocks", "POST /settle, 256 at once, a block a second", least=200),
    Goal("settle-blocks-p99", "the slowest of them", more=False, most=3),
    Goal("race", "one payment settled 20 times at once: equal successes", least=20),
    Goal("race-transactions", "transactions of that", more=False, most=1),
    Goal("settle-many-gas", "gas a payment, 100 at once", more=False, most=0.75),
    Goal(
        "client-sign",
        "build and sign a Base payment",
        more=False,
        most=60,
        times=BOTH,
        then={PYTHON: 288, TYPESCRIPT: 338},
    ),
    Goal("solana-verify", "POST /verify on Solana", times={PYTHON: 1}),
    Goal("solana-settle", "POST /settle on Solana", least=500, times={PYTHON: 1}),
    Goal(
        "paywall",
        "paid requests through the paywall, 16 at once",
        least=2500,
        times=BOTH,
        then={PYTHON: 273, TYPESCRIPT: 772},
    ),
    Goal("end-to-end", "paid requests with facilitator and chain, 16 at once", times=BOTH),
    Goal("round-trips", "HTTP round trips of a paid call more than of a free one", more=False, most=0),
    Goal("first-token-balance", "first token paid from a balance, later than free", more=False, most=10),
    Goal("first-token-upto", "first token of an upto stream, later than free and a verify", more=False, most=10),
    Goal("ready", "facilitator ready after its start", more=False, most=0.8, then={PYTHON: 0.66, TYPESCRIPT: 0.5}),
    Goal("memory", "its memory after the load", more=False, most=120),
    Goal("import", "import x402, more than bare Python", more=False, most=60),
    Goal("claims-sqlite", "durable claims, SQLite with synchronous=FULL", least=3000),
    Goal("claims-postgres", "durable claims, PostgreSQL", least=3000),
)
