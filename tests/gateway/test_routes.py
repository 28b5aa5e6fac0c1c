"""Prices on routes: no path, method or scope is a way round them (faults F01-F03)."""

from __future__ import annotations

import itertools
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from x402.errors import MisconfiguredError
from x402.gateway.paywall import FREE
from x402.gateway.route_keys import RouteKey

PRICED = {"GET /report": "$0.01"}


def path_mutants(path: str) -> list[str]:
    """Spellings of a path, of which a router may serve some (fault F01)."""
    marks = [
        "",
        "/",
        "//",
        "\\",
        "%5C",
        "%2F",
        "%2f",
        ";",
        ";x=1",
        ".",
        "/.",
        "/..",
        "/../",
        "%00",
        "%20",
        " ",
        "#",
        "%23",
    ]
    marks += ["?", "%3F", "%", "%zz", "%c0%af", "%252F", "..;/", "~", "%2e", "/%2e", "/%2e%2e/", "\t", "%09", "%0a"]
    tails = [path + mark for mark in marks]
    heads = [
        mark + path for mark in ("/", "//", "/.", "/x/..", "/%2e", "/./", "/;", "/%2F", "\\", "/%5C", "/..", "/*/..")
    ]
    cases = [path.upper(), path.title(), path.swapcase(), path.replace("e", "%65"), path.replace("e", "%2565")]
    cases += [path.replace("/", "//"), path.replace("/", "/./"), path.replace("/", "%2F"), path.replace("/", "/\\")]
    cases += [path.replace("p", "\N{FULLWIDTH LATIN SMALL LETTER P}"), path.replace("o", "%C0%AF"), path + path]
    mixed = [head + tail[len(path) :] for head, tail in itertools.product(heads, tails)]
    return list(dict.fromkeys([*tails, *heads, *cases, *mixed]))


class Served(Exception):
    """Raised by a handler that must not run unpaid."""


def fastapi_app(runs: list[str]) -> FastAPI:
    app = FastAPI()

    @app.api_route("/report", methods=["GET"])
    async def report() -> dict[str, str]:
        runs.append("report")
        return {"report": "secret"}

    inner = APIRouter()

    @inner.get("/deep/{name}")
    async def deep(name: str) -> dict[str, str]:
        runs.append("deep")
        return {"deep": "secret"}

    app.include_router(inner, prefix="/in")
    return app


async def plain_app(scope: Any, receive: Any, send: Any) -> None:
    """An app without a router that reads paths carelessly."""
    path = unquote(unquote(scope["path"])).replace("\\", "/").lower()
    segments = [segment.partition(";")[0] for segment in path.split("/")]
    tidy: list[str] = []
    for segment in segments:
        if segment == "..":
            tidy = tidy[:-1]
        elif segment.strip() not in ("", "."):
            tidy.append(segment.strip())
    secret = tidy[:1] == ["report"] or tidy[:2] == ["in", "deep"]
    await send({"type": "http.response.start", "status": 200 if secret else 404, "headers": []})
    await send({"type": "http.response.body", "body": b"secret" if secret else b"nothing"})


def mounted_app(runs: list[str]) -> Starlette:
    async def page(request: Request) -> PlainTextResponse:
        runs.append("page")
        return PlainTextResponse("secret")

    return Starlette(
        routes=[
            Route("/report", page),
            Mount("/in", routes=[Route("/deep/{name}", page), Mount("/other", app=plain_app)]),
        ]
    )


async def raw_get(app: Any, raw_path: str, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
    """One request with a path exactly as given, decoded as a server would do it."""
    path, _, query = raw_path.partition("?")
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"shop.test")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    head = sent[0]
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return head["status"], body, {name.decode(): value.decode() for name, value in head["headers"]}


@pytest.mark.parametrize("kind", ["fastapi", "starlette", "plain"])
async def test_F01_no_spelling_of_a_path_is_a_way_round_the_price(shop: Any, kind: str) -> None:
    runs: list[str] = []
    apps: dict[str, Any] = {"fastapi": fastapi_app, "starlette": mounted_app, "plain": lambda _: plain_app}
    app = apps[kind](runs)
    routes = {"GET /report": "$0.01", "GET /in/deep/{name}": "$0.01"}
    if kind == "plain":
        routes = {"/report/*": "$0.01", "/in/deep/*": "$0.01"}
    shop.open(routes, app=app)
    mutants = path_mutants("/report") + path_mutants("/in/deep/x")
    assert len(mutants) >= 400
    statuses: dict[int, int] = {}
    for mutant in mutants:
        status, body, _ = await raw_get(shop.paywall, mutant)
        statuses[status] = statuses.get(status, 0) + 1
        assert not 200 <= status < 300, mutant
        assert b"secret" not in body, mutant
    assert runs == []
    # The control: the plain spellings do ask for a payment, and so do others that the router understands.
    assert statuses[402] >= 5
    assert 500 not in statuses


@pytest.mark.parametrize("kind", ["fastapi", "starlette"])
async def test_F01_the_guard_answers_exactly_where_the_router_serves(shop: Any, kind: str) -> None:
    runs: list[str] = []
    make: Any = {"fastapi": fastapi_app, "starlette": mounted_app}[kind]
    open_app = make(runs)
    shop.open({"GET /report": "$0.01", "GET /in/deep/{name}": "$0.01"}, app=make([]))
    for mutant in path_mutants("/report") + path_mutants("/in/deep/x"):
        unguarded, _, _ = await raw_get(open_app, mutant)
        guarded, _, _ = await raw_get(shop.paywall, mutant)
        assert guarded == (402 if unguarded == 200 else unguarded), mutant
    assert runs


@pytest.mark.parametrize("kind", ["fastapi", "starlette", "plain"])
@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "X"]
)
async def test_F02_no_method_runs_a_handler_unpaid(shop: Any, kind: str, method: str) -> None:
    runs: list[str] = []
    apps: dict[str, Any] = {"fastapi": fastapi_app, "starlette": mounted_app, "plain": lambda _: plain_app}
    shop.open({"GET /report": "$0.01"}, app=apps[kind](runs))
    status, body, _ = await raw_get(shop.paywall, "/report", method)
    assert status in (400, 402, 405)
    assert b"secret" not in body
    assert runs == []


async def test_F02_a_method_without_a_key_pays_like_the_others_of_its_handler(shop: Any) -> None:
    @shop.app.api_route("/both", methods=["GET", "POST"])
    async def both() -> dict[str, str]:
        return {"ok": "yes"}

    client = shop.open({"GET /both": "$0.01"})
    assert (await shop.challenge("/both", "POST")).accepts[0].amount == 10_000
    assert (await client.delete("/both")).status_code == 405


async def test_F02_a_head_request_costs_what_its_get_costs(shop: Any) -> None:
    @shop.app.api_route("/both", methods=["POST", "GET", "HEAD"])
    async def both() -> dict[str, str]:
        return {"ok": "yes"}

    shop.open({"POST /both": "$0.02", "GET /both": "$0.01"})
    assert (await shop.challenge("/both", "HEAD")).accepts[0].amount == 10_000


async def test_F02_keys_may_price_methods_apart(shop: Any) -> None:
    @shop.app.api_route("/both", methods=["GET", "POST", "PUT"])
    async def both() -> dict[str, str]:
        return {"ok": "yes"}

    shop.open({"GET /both": "$0.01", "POST /both": "$0.02", "/both": "$0.03"})
    amounts = [(await shop.challenge("/both", method)).accepts[0].amount for method in ("GET", "POST", "PUT")]
    assert amounts == [10_000, 20_000, 30_000]


@pytest.mark.parametrize("kind", ["route", "plain"])
async def test_F03_a_websocket_to_a_priced_path_is_closed_before_it_is_accepted(shop: Any, kind: str) -> None:
    accepted: list[str] = []
    app = FastAPI()

    @app.websocket("/ws")
    async def talk(socket: WebSocket) -> None:
        accepted.append("yes")
        await socket.accept()

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        accepted.append("yes")
        await send({"type": "websocket.accept"})

    shop.open({"/ws": "$0.01"}, app=app if kind == "route" else bare)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/ws",
        "raw_path": b"/ws",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "subprotocols": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await shop.paywall(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert accepted == []


@pytest.mark.parametrize(
    "routes",
    [
        {"GET /missing": "$1"},
        {"POST /report": "$1"},
        {"GET /report/{x}": "$1"},
        {"GET /rep*": "$1"},
        {"/in/deep/x": "$1"},
        {"/in/deep/x/*": "$1"},
    ],
)
async def test_a_price_without_a_route_stops_the_start(shop: Any, routes: dict[str, str]) -> None:
    client = shop.open(routes, app=fastapi_app([]))
    with pytest.raises(MisconfiguredError):
        await client.get("/report")


async def test_a_router_under_two_paths_must_be_priced_under_both(shop: Any) -> None:
    def app() -> FastAPI:
        app, router = FastAPI(), APIRouter()
        router.add_api_route("/x", lambda: {"ok": "yes"})
        app.include_router(router, prefix="/a")
        app.include_router(router, prefix="/b")
        return app

    client = shop.open({"GET /a/x": "$1"}, app=app())
    with pytest.raises(MisconfiguredError, match="under another path"):
        await client.get("/a/x")
    client = shop.open({"GET /a/x": "$1", "GET /b/x": "$1"}, app=app())
    assert [(await client.get(path)).status_code for path in ("/a/x", "/b/x")] == [402, 402]


async def test_wildcards_price_whole_branches(shop: Any) -> None:
    client = shop.open({"/in/*": "$0.05", "GET /in/deep/{name}": "$0.01"}, app=mounted_app([]))
    assert (await shop.challenge("/in/deep/x")).accepts[0].amount == 10_000
    assert (await shop.challenge("/in/other/anything")).accepts[0].amount == 50_000
    assert (await client.get("/report")).status_code == 200


async def test_plain_apps_may_say_which_methods_are_free(shop: Any) -> None:
    client = shop.open({"GET /report": "$0.01", "POST /report": FREE}, app=plain_app)
    assert (await client.get("/report")).status_code == 402
    assert (await client.post("/report")).status_code == 200
    assert (await client.get("/else")).status_code == 404


async def test_route_patterns_match_like_the_sdks(shop: Any) -> None:
    """The vectors named "route patterns" of the official SDK."""
    cases = [
        ("GET /api/weather/*", {"/api/weather": True, "/api/weather/sf": True, "/api/weather2": False}),
        ("/users/:id", {"/users/1": True, "/users/1/x": False, "/users/": False}),
        ("/users/[id]/posts", {"/users/9/posts": True}),
        ("*", {"/anything": True}),
        ("/users/{id}", {"/USERS/1": True, "/users/1?x=2": True}),
    ]
    for pattern, paths in cases:
        key = RouteKey.parse(pattern)
        assert {path: key.covers_path(path) for path in paths} == paths, pattern
    for nonsense in ("", "report", "GET", "get /x", "GET  ", "GET /a b"):
        with pytest.raises(MisconfiguredError):
            RouteKey.parse(nonsense)
    shop.open(PRICED)
