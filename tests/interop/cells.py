"""The cells of the interop matrix: who pays which seller, settled by whom, on which chain, in which version."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from x402 import networks
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET


class Client(StrEnum):
    """Who pays."""

    PYTHON = "official Python (httpx)"
    FETCH = "official TypeScript (fetch)"
    FETCH_V1 = "official x402-fetch 1.x"
    OURS = "ours (httpx)"
    OPENAI = "openai SDK, sync"
    OPENAI_ASYNC = "openai SDK, async"
    OPENAI_STREAM = "openai SDK, sync stream"
    OPENAI_ASYNC_STREAM = "openai SDK, async stream"


class Server(StrEnum):
    """Who sells."""

    GATEWAY = "our gateway"
    GATEWAY_ALPHA = "our gateway, /api/alpha"
    GATEWAY_STREAM = "our gateway, streaming"
    PAYWALL = "our Paywall on FastAPI"
    FASTAPI = "official FastAPI"
    EXPRESS = "official Express"


class Facilitator(StrEnum):
    """Who settles."""

    OURS = "ours"
    OURS_STALLED = "ours, 503 at first"
    PYTHON = "official Python"
    TYPESCRIPT = "official TypeScript"


NETWORKS = (BASE_SEPOLIA, SOLANA_DEVNET)
OPENAI = (Client.OPENAI, Client.OPENAI_ASYNC, Client.OPENAI_STREAM, Client.OPENAI_ASYNC_STREAM)
"""The stock SDK through `X402Auth`."""


@dataclass(frozen=True)
class Cell:
    """One purchase. `network` is CAIP-2 whatever the version of the protocol."""

    client: Client
    server: Server
    facilitator: Facilitator
    network: str
    version: int = 2

    @property
    def where(self) -> str:
        """The network in words."""
        return networks.get(self.network).title

    @property
    def name(self) -> str:
        """What `--cells` and pytest call it."""
        return f"{self.client} > {self.server} > {self.facilitator}, {networks.to_v1(self.network)} v{self.version}"

    @property
    def streams(self) -> bool:
        """Whether the answer is an event stream."""
        return self.server is Server.GATEWAY_STREAM


def _on_both(client: Client, server: Server, facilitator: Facilitator, version: int = 2) -> list[Cell]:
    return [Cell(client, server, facilitator, network, version) for network in NETWORKS]


_OFFICIAL = (Client.PYTHON, Client.FETCH)

CELLS: tuple[Cell, ...] = (
    *(cell for client in _OFFICIAL for cell in _on_both(client, Server.GATEWAY, Facilitator.OURS)),
    *(
        cell
        for client in (Client.FETCH_V1, *_OFFICIAL)
        for cell in _on_both(client, Server.GATEWAY_ALPHA, Facilitator.OURS, version=1)
    ),
    Cell(Client.PYTHON, Server.GATEWAY_STREAM, Facilitator.OURS, SOLANA_DEVNET),
    Cell(Client.FETCH, Server.GATEWAY_STREAM, Facilitator.OURS, BASE_SEPOLIA),
    *_on_both(Client.OURS, Server.GATEWAY, Facilitator.OURS),
    *_on_both(Client.OURS, Server.GATEWAY_ALPHA, Facilitator.OURS, version=1),
    Cell(Client.OPENAI, Server.GATEWAY, Facilitator.OURS, BASE_SEPOLIA),
    Cell(Client.OPENAI_ASYNC, Server.GATEWAY, Facilitator.OURS, SOLANA_DEVNET),
    Cell(Client.OPENAI_STREAM, Server.GATEWAY_STREAM, Facilitator.OURS, SOLANA_DEVNET),
    Cell(Client.OPENAI_ASYNC_STREAM, Server.GATEWAY_STREAM, Facilitator.OURS, BASE_SEPOLIA),
    Cell(Client.OPENAI, Server.GATEWAY, Facilitator.OURS_STALLED, BASE_SEPOLIA),
    Cell(Client.OPENAI_ASYNC, Server.GATEWAY, Facilitator.OURS_STALLED, BASE_SEPOLIA),
    *_on_both(Client.OURS, Server.GATEWAY, Facilitator.PYTHON),
    *_on_both(Client.OURS, Server.GATEWAY, Facilitator.TYPESCRIPT),
    *_on_both(Client.OURS, Server.GATEWAY_ALPHA, Facilitator.PYTHON, version=1),
    *_on_both(Client.FETCH_V1, Server.GATEWAY_ALPHA, Facilitator.TYPESCRIPT, version=1),
    *_on_both(Client.OURS, Server.FASTAPI, Facilitator.OURS),
    *_on_both(Client.OURS, Server.EXPRESS, Facilitator.OURS),
    *(
        cell
        for client in _OFFICIAL
        for server in (Server.FASTAPI, Server.EXPRESS)
        for cell in _on_both(client, server, Facilitator.OURS)
    ),
    Cell(Client.PYTHON, Server.PAYWALL, Facilitator.OURS, BASE_SEPOLIA),
    Cell(Client.FETCH, Server.PAYWALL, Facilitator.OURS, SOLANA_DEVNET),
    Cell(Client.FETCH_V1, Server.PAYWALL, Facilitator.OURS, BASE_SEPOLIA, version=1),
)
"""The matrix. Every cell has something of ours in it."""

CONTROL = (
    Cell(Client.PYTHON, Server.EXPRESS, Facilitator.PYTHON, BASE_SEPOLIA),
    Cell(Client.FETCH, Server.EXPRESS, Facilitator.PYTHON, SOLANA_DEVNET),
    Cell(Client.PYTHON, Server.FASTAPI, Facilitator.TYPESCRIPT, SOLANA_DEVNET),
    Cell(Client.FETCH, Server.FASTAPI, Facilitator.TYPESCRIPT, BASE_SEPOLIA),
)
"""Official parts among themselves. What is red here is the rig or the devnets; what is green here and red in the
matrix is ours."""


def matching(pattern: str) -> list[Cell]:
    """The cells of the matrix whose name contains `pattern`, which may have shell wildcards."""
    return [cell for cell in CELLS if fnmatchcase(cell.name.lower(), f"*{pattern.lower()}*")]
