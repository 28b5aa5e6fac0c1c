"""The line between a facilitator and its node, cut and held at will: a proxy that forwards JSON-RPC, or does not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal, Self

import aiohttp
from aiohttp import web

from tests.chains import Elsewhere

Rule = Literal["drop", "error", "hang", "swallow"]
"""`drop` closes the connection and forwards nothing; `error` answers with a JSON-RPC error and forwards nothing;
`hang` neither forwards nor answers until the line is mended; `swallow` forwards and closes instead of answering."""
EVERYTHING = "*"
"""Stands for every method."""


class Line:
    """A context manager: `url` is the node's address as the facilitator knows it."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._rules: Mapping[str, Rule] = {}
        self._mended = asyncio.Event()
        self.url = ""
        self.asked: list[str] = []
        """The methods of the calls that came since the last rules, in their order."""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        self._http = aiohttp.ClientSession()
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._mended.set()
        await self._runner.cleanup()
        await self._http.close()

    async def obey(self, rules: Mapping[str, Rule]) -> None:
        """From now on do this, by method; an empty mapping mends the line, and what hangs is cut."""
        self._rules = rules
        self.asked = []
        self._mended.set()
        self._mended = asyncio.Event()

    async def _answer(self, request: web.Request) -> web.Response:
        told = await request.json()
        calls = told if isinstance(told, list) else [told]
        self.asked += [call["method"] for call in calls]
        rules = {call["id"]: self._rules.get(call["method"]) or self._rules.get(EVERYTHING) for call in calls}
        # Calls that share a request are told apart: what another call meets keeps none from the node.
        replies = await self._forward([call for call in calls if rules[call["id"]] in (None, "swallow")])
        if "hang" in rules.values():
            await self._mended.wait()
        if {"drop", "hang", "swallow"} & set(rules.values()):
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        replies += [{"jsonrpc": "2.0", "id": name, "error": _ERROR} for name, rule in rules.items() if rule == "error"]
        return web.json_response(replies if isinstance(told, list) else replies[0])

    async def _forward(self, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not calls:
            return []
        async with self._http.post(self._node, json=calls) as reply:
            replies: list[dict[str, Any]] = await reply.json()
        return replies


class LineWorld(Elsewhere[Line]):
    """A line on a thread of its own, for tests of any loop."""

    def __init__(self, node: str) -> None:
        super().__init__(Line(node))

    async def obey(self, rules: Mapping[str, Rule]) -> None:
        """See `Line.obey`."""
        await self.on_loop(self.devnet.obey(rules))


_ERROR = {"code": -32000, "message": "the node is not well"}
