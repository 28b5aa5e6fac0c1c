"""The status page: can a payment be taken now, and who answers? For people as a page, for programs as JSON (row 12)."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from x402.gateway.api.listings import providers
from x402.gateway.inference.router import Router
from x402.gateway.paywall import Paywall

REFRESH_SECONDS = 15
_WORDS = {
    "ledger": "The ledger can be written",
    "facilitator": "A facilitator settles payments",
    "reconciled": "Nothing is left open from before the start",
}
_WELL = {"up": True, "outage": False}


def add_status(app: FastAPI, router: Router) -> None:
    """Add `/status`: a page for whoever accepts HTML, else JSON; 503 when no payment could be taken."""

    async def status(request: Request) -> Response:
        """Whether a payment can be taken now, and how the providers do."""
        paywall: Paywall = app.state.paywall
        checks = await paywall.checks()
        known = providers(router)
        body = {"status": _verdict(checks, known), "checks": checks, "providers": known}
        code = 200 if checks["ledger"] and checks["facilitator"] else 503
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(page(body), code, headers={"Content-Security-Policy": _CSP})
        return JSONResponse(body, code)

    app.add_api_route("/status", status, methods=["GET"], tags=["operations"], response_class=Response)


def _verdict(checks: dict[str, bool], known: list[dict[str, Any]]) -> str:
    if not (checks["ledger"] and checks["facilitator"]):
        return "down"
    return "up" if all(checks.values()) and all(one["status"] == "active" for one in known) else "degraded"


def page(body: dict[str, Any]) -> str:
    """The same as a page without scripts; it loads itself again every `REFRESH_SECONDS`."""
    checks = "".join(
        _row(_WORDS.get(name, name), "yes" if well else "no", well) for name, well in body["checks"].items()
    )
    offers = "".join(
        _row(f"{one['display_name']}: {model['id']}", _doing(model["health"]), _WELL.get(model["health"]["status"]))
        for one in body["providers"]
        for model in one["models"]
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH_SECONDS}"><link rel="icon" href="data:,">
<title>Gateway: {escape(body["status"])}</title>
<style>{_STYLE}</style></head><body><main>
<h1 class="{escape(body["status"])}">The gateway is {escape(body["status"])}</h1>
<h2>Payments</h2><table>{checks}</table>
<h2>Models</h2><table>{offers}</table>
</main></body></html>
"""


def _row(name: str, words: str, well: bool | None) -> str:
    colour = "" if well is None else "up" if well else "down"
    return f'<tr><td>{escape(name)}</td><td class="{colour}">{escape(words)}</td></tr>'


def _doing(health: dict[str, Any]) -> str:
    words = ["not asked yet" if health["status"] == "unknown" else health["status"]]
    if health["latency_ms"] is not None:
        words.append(f"{health['latency_ms']} ms")
    if health["availability_percent"] is not None:
        words.append(f"{health['availability_percent']} % of {health['requests']}")
    return ", ".join(words)


_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_STYLE = """
:root { color-scheme: light dark; --ink: #1a1d21; --paper: #fbfbfa; --line: #d9dbde; --up: #16713c; --down: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ea; --paper: #16181b; --line: #33373c; --up: #6fd08c; --down: #ff8a80; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 44rem; margin: 3rem auto; padding: 0 1rem; }
table { width: 100%; border-collapse: collapse; }
td { border-top: 1px solid var(--line); padding: .5rem 0; }
td + td { text-align: right; }
.up { color: var(--up); } .down, .degraded { color: var(--down); }
"""
