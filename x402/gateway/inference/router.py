"""From a model's name to an answer: the cheapest provider first, the next one when it fails (aimo rows 66-70).

All of this happens inside one payment: however many providers are tried, the buyer is charged once (fault G05).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from x402.errors import MalformedError, Mender
from x402.gateway.inference.catalogue import Catalogue, Model, Provider, Upstream
from x402.gateway.inference.ranges import refused
from x402.gateway.inference.upstream import UpstreamAnswer, UpstreamClient, UpstreamFailed
from x402.gateway.problem import ApiProblem
from x402.telemetry import Telemetry

Taken = TypeVar("Taken")
Take = Callable[[UpstreamAnswer], Awaitable[Taken]]


class Asked(Protocol):
    """A request as the router sees it: `path` is where it goes below an upstream's base URL."""

    @property
    def model(self) -> str: ...

    @property
    def endpoint(self) -> str: ...

    @property
    def path(self) -> str: ...

    def forward(self, model: str, output_tokens: int) -> dict[str, Any]:
        """The body for an upstream that calls the model `model`; no answer may grow beyond `output_tokens`."""
        ...


class Router:
    """Finds models and asks their providers."""

    def __init__(self, catalogue: Catalogue, client: UpstreamClient, *, telemetry: Telemetry | None = None) -> None:
        self.catalogue = catalogue
        self._client = client
        self._telemetry = telemetry or Telemetry()

    def resolve(self, name: str) -> Model:
        """The model of a name in any of its spellings (aimo §1.7). Raises `ApiProblem` 404, or 400 when ambiguous,
        with the nearest names."""
        try:
            model = self.catalogue.resolve(name)
        except MalformedError as error:
            missing = error.code == "model_not_found"
            problem = refused("model", error.message, code=error.code, status=404 if missing else 400)
            problem.details = error.details
            raise problem from error
        if not servable(model):
            raise refused("model", f"{model.id} has no provider here", code="model_unavailable", status=404)
        return model

    async def ask(
        self, model: Model, request: Asked, output_tokens: int, take: Take[Taken], *, request_id: str = ""
    ) -> Taken:
        """What `take` makes of the first answer that it can use. Raises `ApiProblem` 503 when there is none.

        `take` gets an answer whose first bytes have come; it raises `UpstreamFailed` to have the next provider asked.
        """
        tried = 0
        for provider, upstream in servable(model):
            body: dict[str, Any] = request.forward(upstream.model, output_tokens)
            try:
                answer = await self._client.open(upstream, body, path=request.path, request_id=request_id)
                answer.provider = provider.id
                return await take(answer)
            except UpstreamFailed as failure:
                tried += 1
                self._telemetry.emit("upstream.failed", provider=provider.id, reason=str(failure)[:80])
        raise ApiProblem(
            503,
            "model_unavailable",
            f"no provider of {model.id} answers now",
            kind="server_error",
            mender=Mender.NOBODY,
            retry_after_seconds=5,
            details={"tried": tried},
        )


def servable(model: Model) -> list[tuple[Provider, Upstream]]:
    """The providers that can be asked, the cheapest first."""
    able = [(provider, provider.upstream) for provider in model.providers if provider.upstream is not None]
    return sorted(able, key=lambda pair: (pair[0].price.completion.atomic, pair[0].price.prompt.atomic))
