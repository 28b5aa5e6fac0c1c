"""The real parties, each as a process that can be killed and started again: gateway, facilitator, and buyer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.simulation.disk import Disk, JournalFile, SimulatedLedger
from tests.simulation.evm_chain import SimulatedEvm
from tests.simulation.evm_node import SimulatedEvmNode
from tests.simulation.loop import Life
from tests.simulation.people import EVM_NODE, SETTLER, SHOP, STRANGER, SVM_NODE, keys
from tests.simulation.proof import prove_frozen
from tests.simulation.scenarios import EVM, PRICE, PRICE_UNITS, SVM, Scenario
from tests.simulation.svm_chain import SimulatedSvm
from tests.simulation.svm_node import SimulatedSvmNode
from tests.simulation.wire import Door, Network, SimulatedTransport
from tests.simulation.world import World
from x402.billing import Metered
from x402.client.auth import X402Auth
from x402.client.breaker import Breaker
from x402.client.budget import Limits
from x402.client.choose import Policy
from x402.confirmation import parse_confirmations
from x402.errors import X402Error
from x402.evidence.evm import EvmWitness
from x402.evidence.svm import SvmWitness
from x402.facilitator import reconcile
from x402.facilitator.evm_rail import EvmRail
from x402.facilitator.rail import Rail
from x402.facilitator.remote import RemoteFacilitator
from x402.facilitator.service import create_app
from x402.facilitator.settle import LocalFacilitator
from x402.facilitator.svm_rail import SvmRail
from x402.gateway.nodes import Nodes
from x402.gateway.paywall import Paywall
from x402.gateway.policy import Policy as Risk
from x402.gateway.sale import Sale
from x402.ports import Chains
from x402.settings import ClientSettings, FacilitatorSettings

_RECONCILE_SECONDS = 20.0
_READ_TIMEOUT_SECONDS = 15.0
_RETRY_SECONDS = 2.0
_REFUND_SECONDS = 60


@dataclass
class Purchase:
    """What a person wants once, through however many crashes of the client."""

    number: int
    begins_at: float
    bodies: list[bytes] = field(default_factory=list)
    served: bool = False
    wanted: bool = True
    attempts: int = 0
    words: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Its request."""
        return f"/goods/{self.number}"


class Cast:
    """All processes of a run, and what outlives them: disks, chains, the person's wishes."""

    def __init__(self, world: World, scenario: Scenario, disks: dict[str, Disk], journal: JournalFile) -> None:
        self.world, self.scenario, self.disks, self.journal = world, scenario, disks, journal
        self.network = Network(world)
        mine = keys()
        money = scenario.holds * PRICE_UNITS
        wei = {signer.address: 10**18 for signer in mine.signers}
        wei |= {mine.buyer.evm_address: 10**18, STRANGER: 10**18}
        self.evm = SimulatedEvm(
            world, EVM, {mine.buyer.evm_address: money, mine.seller_evm: 0, mine.purses[EVM].address(EVM): money}, wei
        )
        lamports = {mine.fee_payer.address: 10**9}
        self.svm = SimulatedSvm(
            world,
            SVM,
            {mine.buyer.svm_address: money, mine.seller_svm: 0, mine.purses[SVM].address(SVM): money},
            lamports,
        )
        self.network.nodes |= {SVM_NODE: self._answer_node, EVM_NODE: self._tell_allowance}
        self.purchases = [
            Purchase(number, 1.0 + world.chance.uniform(0, 0.1 if scenario.crowd else 2.0 * number))
            for number in range(scenario.purchases)
        ]
        self.handled: dict[str, list[str]] = {}
        """By payId, the goods that handlers made for it."""
        self.patient = True
        """Whether the person still tries again."""
        self.facilitators: list[LocalFacilitator] = []
        self.gateways: list[Paywall] = []
        names = {"local": ["gateway"], "replicas": ["gateway", "gateway2"], "remote": ["settler", "gateway"]}
        self.names = names[scenario.place]
        for index, name in enumerate(self.names):
            world.start_again[name] = lambda name=name, index=index: self._start(name, index)  # type: ignore[misc]
        world.start_again["client"] = self.start_client
        world.mortal = {*self.names, "client"}

    def start(self) -> None:
        """Everybody starts."""
        for name in self.names:
            self.world.start_again[name]()
        self.start_client()

    def _start(self, name: str, index: int) -> None:
        life = self.world.live(name)
        role = self._settler if name == "settler" else self._gateway
        self.world.loop.create_task(role(life, index), context=self.world.within(life))

    # The facilitator.

    def _rails(self, index: int) -> list[Rail]:
        mine, confirmations = keys(), parse_confirmations(self.scenario.confirmations)
        clock = self.world.clock
        if self.scenario.network == EVM:
            # Who alone may settle is named in a permit, so that replicas have to share their keys.
            own = self.scenario.place == "replicas" and self.scenario.scheme == "exact"
            signers = [mine.signers[index]] if own else list(mine.signers[:2])
            return [EvmRail(EVM, SimulatedEvmNode(self.evm), signers, clock, confirmations=confirmations)]
        return [SvmRail(SVM, SimulatedSvmNode(self.svm), [mine.fee_payer], clock, confirmations=confirmations)]

    def _facilitator(self, life: Life, index: int) -> tuple[LocalFacilitator, SimulatedLedger]:
        disk = self.disks["settler" if life.name == "settler" else "gateway"]
        ledger = SimulatedLedger(disk, clock=self.world.clock, holder=repr(life))
        facilitator = LocalFacilitator(self._rails(index), ledger, settle_timeout_seconds=10.0)
        self.facilitators.append(facilitator)
        return facilitator, ledger

    async def _settler(self, life: Life, index: int) -> None:
        facilitator, _ = self._facilitator(life, index)
        settings = FacilitatorSettings.model_construct(
            settle_timeout_seconds=10, reconcile_seconds=int(_RECONCILE_SECONDS)
        )
        app = create_app(settings, facilitator=facilitator)
        await self._live(life, SETTLER, app)

    async def _watch(self, facilitator: LocalFacilitator) -> None:
        """What the service does around a facilitator, for one that is built into a gateway."""

        async def pause() -> None:
            await asyncio.sleep(_RECONCILE_SECONDS)

        while True:
            try:
                await reconcile.run(facilitator)
                break
            except X402Error:
                await asyncio.sleep(1)
        await reconcile.watch(facilitator, pause)

    # The gateway.

    async def _gateway(self, life: Life, index: int) -> None:
        scenario, world = self.scenario, self.world
        facilitator: Any
        if scenario.place == "remote":
            client = httpx.AsyncClient(transport=SimulatedTransport(self.network), trust_env=False)
            facilitator = RemoteFacilitator(f"http://{SETTLER}", client=client)
            ledger = SimulatedLedger(self.disks["gateway"], clock=world.clock, holder=repr(life))
        else:
            facilitator, ledger = self._facilitator(life, index)
            world.loop.create_task(self._watch(facilitator), context=world.within(life))
        mine = keys()
        pay_to = {scenario.network: mine.seller_evm if scenario.network == EVM else mine.seller_svm}
        paywall = Paywall(
            self._goods,
            pay_to=pay_to,
            facilitator=facilitator,
            routes={"GET /goods/*": PRICE},
            ledger=ledger,
            flow=scenario.flow,
            schemes=(scenario.scheme,),
            public_url=f"https://{SHOP}",
            max_timeout_seconds=scenario.timeout_seconds,
            quote_keys=(bytes(32),),
            policy=Risk(refund_after_seconds=_REFUND_SECONDS),
            accounts=True,
            nodes=self._nodes(),
            purse=mine.purses[scenario.network] if scenario.refunds else None,
            reconcile_seconds=_RECONCILE_SECONDS,
            clock=world.clock,
        )
        self.gateways.append(paywall)
        await self._live(life, SHOP, paywall)

    def _nodes(self) -> Nodes:
        """The gateway's own look at the chain, where it has one. A Solana refund needs a blockhash."""
        if self.scenario.network == EVM:
            return Nodes({EVM: EvmWitness(EVM, SimulatedEvmNode(self.evm))} if self.scenario.witness else {})
        node = SimulatedSvmNode(self.svm)

        async def blockhash() -> str:
            return (await node.blockhash()).hash

        looks = self.scenario.witness or self.scenario.refunds
        return Nodes({SVM: SvmWitness(SVM, node)}, {SVM: blockhash}) if looks else Nodes()

    async def _live(self, life: Life, host: str, app: Any) -> None:
        """The lifespan of a server process: it takes requests once its app is ready."""
        messages = [{"type": "lifespan.startup"}]

        async def receive() -> MutableMapping[str, Any]:
            if messages:
                return messages.pop()
            return await self.world.loop.create_future()  # type: ignore[no-any-return]

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "lifespan.startup.complete":
                for name in (host, f"{life.name}.{host}"):
                    self.network.open(name, Door(life, app))

        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    async def _goods(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """What is sold: an app that makes a different answer each time it is asked."""
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        sale: Sale = scope["x402"]
        made = self.handled.setdefault(sale.pay_id, [])
        made.append(scope["path"])
        # Half of the price is used, and the other half is the buyer's.
        used, streams = sale.amount // 2, self.scenario.streams
        sale.metered = Metered(model="goods", charged=0 if streams else used, complete=True)
        await self.world.boundary(f"handler {scope['path']}", "before")
        await asyncio.sleep(self.world.chance.uniform(0, self.scenario.seconds))
        if len(made) <= self.scenario.failures:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})
            return
        kind = b"text/event-stream" if streams else b"text/plain"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for piece in range(self.scenario.pieces):
            more = streams or piece + 1 < self.scenario.pieces
            body = f"{scope['path']} made {len(made)} piece {piece};".encode()
            await self.world.boundary(f"handler {scope['path']} piece {piece}", "before")
            if streams:
                sale.metered = Metered(model="goods", charged=used * (piece + 1) // self.scenario.pieces)
            await send({"type": "http.response.body", "body": body, "more_body": more})
            if more:
                await asyncio.sleep(self.scenario.seconds if streams else 0.05)
        if streams and sale.settle is not None:
            # As the end of a stream of tokens does, which carries the receipt.
            receipt = await sale.settle()
            await send({"type": "http.response.body", "body": f": {receipt.transaction}".encode()})

    # The buyer.

    def start_client(self) -> None:
        """The person's program starts, and takes up what is not done yet."""
        life = self.world.live("client")
        self.world.loop.create_task(self._client(), context=self.world.within(life))

    def _chains(self) -> Chains:
        """The chains as the buyer may ask them."""
        if self.scenario.network == EVM:
            return Chains(evm={EVM: SimulatedEvmNode(self.evm)})
        return Chains(svm={SVM: SimulatedSvmNode(self.svm)})

    def visit_again(self, numbers: list[int]) -> None:
        """The person starts the program once more, for some purchases only."""
        life = self.world.lives["client"]
        if life.alive:
            self.world.start_again.pop("client")
            self.world.kill(life)
        for purchase in self.purchases:
            purchase.wanted = purchase.number in numbers
            purchase.attempts = 0
        self.patient = True
        self.start_client()

    async def _client(self) -> None:
        scenario, world = self.scenario, self.world
        journal = self.journal.open(world.clock)
        auth = X402Auth(
            keys().buyer,
            policy=Policy(networks=(scenario.network,), schemes=(scenario.scheme,)),
            limits=Limits(per_day=f"{scenario.budget * PRICE_UNITS / 10**6:.6f}"),
            journal=journal,
            breaker=Breaker(failures=50),
            prove=lambda record: prove_frozen(journal, record, self._chains()),
            svm_rpc=f"http://{SVM_NODE}/",
            evm_rpc=f"http://{EVM_NODE}/",
            settings=ClientSettings.model_construct(),
            clock=world.clock,
            entropy=world.entropy,
        )
        transport = SimulatedTransport(self.network)
        timeout = httpx.Timeout(_READ_TIMEOUT_SECONDS)
        async with httpx.AsyncClient(auth=auth, transport=transport, timeout=timeout, trust_env=False) as client:
            await asyncio.gather(*(self._buy(client, one) for one in self.purchases if one.wanted and not one.served))

    async def _buy(self, client: httpx.AsyncClient, purchase: Purchase) -> None:
        """What an SDK does: the same call again, politely, until there is an answer."""
        wait = purchase.begins_at - self.world.loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        while not purchase.served and self.patient:
            purchase.attempts += 1
            pause = _RETRY_SECONDS * min(purchase.attempts, 8)
            try:
                response = await client.get(f"https://{SHOP}{purchase.path}")
            except (httpx.HTTPError, X402Error) as error:
                said = getattr(error, "code", type(error).__name__)
            else:
                said = _said(response)
                if response.status_code == 200:
                    purchase.bodies.append(response.content)
                    purchase.served = True
            purchase.words.append(said)
            self.world.note(f"purchase {purchase.number} attempt {purchase.attempts}: {said}")
            if not purchase.served:
                await asyncio.sleep(pause)

    def _answer_node(self, body: bytes) -> Any:
        """The cluster's node, as the buyer asks it: only for a blockhash."""
        text, last = self.svm.blockhash(self.svm.slot() - 2)
        return {"jsonrpc": "2.0", "id": 1, "result": {"value": {"blockhash": text, "lastValidBlockHeight": last}}}

    def _tell_allowance(self, body: bytes) -> Any:
        """The EVM node, as the buyer asks it: only for what Permit2 may move."""
        asked = json.loads(body)
        answers = (self.evm.latest().token.ask(bytes.fromhex(one["params"][0]["data"][2:])) for one in asked)
        return [
            {"jsonrpc": "2.0", "id": one["id"], "result": "0x" + (said or b"").hex()}
            for one, said in zip(asked, answers, strict=True)
        ]


def _said(response: httpx.Response) -> str:
    """Status and reason."""
    try:
        return f"{response.status_code} {response.json()['error']['code']}"
    except (ValueError, KeyError, TypeError):
        return str(response.status_code)
