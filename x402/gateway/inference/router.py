"""From a model's name to an answer: one provider after the other, until one answers (aimo rows 66-71).

All of this happens inside one payment: however many providers are tried, the buyer is charged once (fault G05), and
another provider is only asked as long as nothing has reached the buyer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from x402.errors import MalformedError, Mender
from x402.gateway.inference.adapters import FORMATS
from x402.gateway.inference.adapters.api_format import CHAT
from x402.gateway.inference.answer_cache import AnswerCache
from x402.gateway.inference.catalogue import Catalogue, Model, Provider, Upstream
from x402.gateway.inference.health import Health
from x402.gateway.inference.hooks import Pins, Screen
from x402.gateway.inference.lanes import Lanes
from x402.gateway.inference.price_rules import Tier
from x402.gateway.inference.ranges import refused
from x402.gateway.inference.selection import NO_WISHES, Dice, Wishes, eligible, line_up
from x402.gateway.inference.upstream import UpstreamAnswer, UpstreamClient, UpstreamFailed
from x402.gateway.problem import ApiProblem
from x402.telemetry import Telemetry

Taken = TypeVar("Taken")
Take = Callable[[UpstreamAnswer], Awaitable[Taken]]


class Forwardable(Protocol):
    """A request that can be sent on."""

    def forward(self, model: str, output_tokens: int) -> dict[str, Any]:
        """The body for an upstream that calls the model `model`; no answer may grow beyond `output_tokens`."""
        ...


@dataclass(frozen=True, slots=True)
class Errand(Generic[Taken]):
    """What every provider is asked alike."""

    request: Forwardable
    output_tokens: int
    take: Take[Taken]
    request_id: str
    path: str
    tier: Tier


class Router:
    """Finds models and asks their providers.

    With `hedge_at`, such as 0.95, a second provider is asked as well when the first takes longer than it did for that
    part of its last answers; the faster answer is taken, and the other cancelled.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        client: UpstreamClient,
        *,
        telemetry: Telemetry | None = None,
        health: Health | None = None,
        dice: Dice = secrets.randbelow,
        hedge_at: float | None = None,
        cache: AnswerCache | None = None,
        screen: Screen | None = None,
        pins: Pins | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.cache = cache
        self._screen = screen
        self._pins = pins
        self.health = health or Health()
        self._client = client
        self._telemetry = telemetry or Telemetry()
        self._dice = dice
        self.hedge_at = hedge_at
        self._lanes = Lanes()

    def resolve(self, name: str) -> Model:
        """The model of a name in any of its spellings (aimo §1.7). Raises `ApiProblem` 404, or 400 when ambiguous,
        with the nearest names."""
        try:
            model = self.catalogue.resolve(name if self._pins is None else self._pins.model(name))
        except MalformedError as error:
            missing = error.code == "model_not_found"
            problem = refused("model", error.message, code=error.code, status=404 if missing else 400)
            problem.details = error.details
            raise problem from error
        if not servable(model):
            raise refused("model", f"{model.id} has no provider here", code="model_unavailable", status=404)
        return model

    def fitting(
        self, model: Model, members: Mapping[str, Any], wishes: Wishes = NO_WISHES, *, path: str = CHAT
    ) -> Model:
        """The model with those providers that may and can serve a request, priced for them alone.

        Raises `ApiProblem`, before anybody pays: as `selection.eligible`, and 400 with what nobody here can do or the
        operator's screen refuses.
        """
        unwanted = "" if self._screen is None else self._screen.objection(members)
        if unwanted:
            raise refused("messages", unwanted, code="content_refused")
        wanted = eligible(model, wishes)
        objections = {provider.id: _objection(provider, members, path) for provider in wanted.providers}
        able = [provider for provider in wanted.providers if not objections[provider.id]]
        if not able:
            words = next(iter(objections.values()))
            raise refused(words.partition(":")[0], words, code="unsupported_parameter")
        return wanted.narrowed(able)

    def listing(self) -> dict[str, Any]:
        """The body of `GET /models`, with the health of every provider."""
        return self.catalogue.listing(self.health.of)

    async def ask(
        self,
        model: Model,
        request: Forwardable,
        output_tokens: int,
        take: Take[Taken],
        *,
        request_id: str = "",
        path: str = CHAT,
        wishes: Wishes = NO_WISHES,
        tier: Tier = Tier.DEFAULT,
    ) -> Taken:
        """What `take` makes of the first answer that it can use. Raises `ApiProblem` 503 when there is none.

        `take` gets an answer whose first bytes have come; it raises `UpstreamFailed` to have the next provider asked.
        """
        errand = Errand(request, output_tokens, take, request_id, path, tier)
        able = [provider for provider in model.providers if provider.upstream is not None]
        line = line_up(able, wishes, self.health, self._dice)
        if self.hedge_at is not None and len(line) > 1:
            return await self._race(model, line, errand, self.hedge_at)
        for provider in line:
            try:
                return await _Attempt(self, provider).run(errand)
            except UpstreamFailed as failure:
                self._note(provider, failure)
        raise _unanswered(model, len(line))

    async def _race(self, model: Model, line: Sequence[Provider], errand: Errand[Taken], hedge_at: float) -> Taken:
        """At most two providers at once, the second only when the first is slower than it usually is."""
        waiting = list(line)
        running: dict[asyncio.Task[Taken], _Attempt] = {}
        patience: float | None = None
        winner: _Attempt | None = None
        try:
            while waiting or running:
                if waiting and (not running or (patience is not None and len(running) == 1)):
                    provider = waiting.pop(0)
                    attempt = _Attempt(self, provider)
                    running[asyncio.ensure_future(attempt.run(errand))] = attempt
                    patience = self.health.latency_below(provider.endpoint, hedge_at) if waiting else None
                done, _ = await asyncio.wait(
                    running, timeout=patience if len(running) == 1 else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    attempt = running.pop(task)
                    try:
                        taken = task.result()
                    except UpstreamFailed as failure:
                        self._note(attempt.provider, failure)
                        patience = None
                    else:
                        winner = attempt
                        return taken
            raise _unanswered(model, len(line))
        finally:
            await _abandon(running, winner)

    def _note(self, provider: Provider, failure: UpstreamFailed) -> None:
        if not failure.busy:
            self.health.failed(provider.endpoint)
        self._telemetry.emit("upstream.failed", provider=provider.id, reason=str(failure)[:80])

    async def open(self, provider: Provider, errand: Errand[Any]) -> UpstreamAnswer:
        """The beginning of one provider's answer. Raises `UpstreamFailed`, or `ApiProblem` for the request's fault."""
        upstream = provider.upstream
        if upstream is None:
            raise UpstreamFailed("it has no address", busy=True)
        leave = await self._lanes.enter(upstream, errand.tier)
        asked_at = self.health.timer()
        try:
            body = errand.request.forward(upstream.model, errand.output_tokens)
            with self._telemetry.step("step.upstream", provider=provider.id, model=upstream.model):
                answer = await self._client.open(upstream, body, request_id=errand.request_id, path=errand.path)
        except BaseException:
            leave()
            raise
        self.health.answered(provider.endpoint, self.health.timer() - asked_at)
        answer.provider = provider
        answer.watch(partial(self._ended, provider.endpoint, asked_at), leave)
        return answer

    def _ended(self, endpoint: str, asked_at: float, broken: bool, tokens: int) -> None:
        if broken:
            self.health.failed(endpoint)
        else:
            self.health.delivered(endpoint, tokens, self.health.timer() - asked_at)


class _Attempt:
    """One provider asked once."""

    def __init__(self, router: Router, provider: Provider) -> None:
        self.provider = provider
        self.answer: UpstreamAnswer | None = None
        self._router = router

    async def run(self, errand: Errand[Taken]) -> Taken:
        """Ask, and take the answer, which stays open only when it was taken."""
        self.answer = await self._router.open(self.provider, errand)
        try:
            return await errand.take(self.answer)
        except BaseException:
            await self.answer.close()
            raise


async def _abandon(running: Mapping[asyncio.Task[Any], _Attempt], winner: _Attempt | None) -> None:
    """Stop those who are not needed any more, and give their connections back."""
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for attempt in running.values():
        if attempt is not winner and attempt.answer is not None:
            await attempt.answer.close()


def servable(model: Model) -> list[tuple[Provider, Upstream]]:
    """The providers that can be asked, the cheapest first."""
    able = [(provider, provider.upstream) for provider in model.providers if provider.upstream is not None]
    return sorted(able, key=lambda pair: (pair[0].price.completion.atomic, pair[0].price.prompt.atomic))


def _objection(provider: Provider, members: Mapping[str, Any], path: str) -> str:
    if provider.upstream is None:
        return "model: this provider has no address"
    spoken = FORMATS[provider.upstream.format]
    return spoken.objection(members) if spoken.path(path) is not None else f"model: {provider.id} has no {path}"


def _unanswered(model: Model, tried: int) -> ApiProblem:
    return ApiProblem(
        503,
        "model_unavailable",
        f"no provider of {model.id} answers now",
        kind="server_error",
        mender=Mender.NOBODY,
        retry_after_seconds=5,
        details={"tried": tried},
    )
