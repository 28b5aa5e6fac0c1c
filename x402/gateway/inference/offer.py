"""What a provider says about itself, signed by its wallet, and read into models that can be sold (aimo §2.4, row 87).

    {"document": "{\"name\": \"Two\", \"base_url\": \"https://two.example/v1\", \"models\": [...], ...}",
     "account": "solana:EtWT…:8W7X…", "signature": "…"}

The document is a text, so that its signature means its very bytes. Its models have the keys of the price file, prices
as text or number, or AiMo's `input_price` and `output_price`, which are atomic USDC per token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from x402 import networks
from x402.errors import MalformedError, MisconfiguredError
from x402.gateway.inference.catalogue import Model
from x402.gateway.inference.model_name import split_name
from x402.gateway.inference.price_entry import model_of
from x402.ports.public_web import check_url
from x402.schemes.sign_in import signer
from x402.wire.strict import parse_object

CODE = "invalid_provider"
DOCUMENT_LIMIT = 64 * 1024
AGE_LIMIT_SECONDS = 300
MODELS_LIMIT = 200

_KEYS = frozenset({"name", "base_url", "api_key", "format", "regions", "models", "issued_at", "withdrawn"})
_MODEL_KEYS = frozenset(
    {"name", "display_name", "upstream_model", "context_length", "max_output_tokens", "default_output_tokens"}
    | {"tokenizer_factor", "image_tokens", "input_modalities", "output_modalities", "created", "pricing"}
    | {"input_price", "output_price", "concurrency"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A document with who signed it: a provider's id is its address, which on Solana is also how AiMo names it."""

    id: str
    account: str
    document: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A document that was read. `public` is the same without the API key; `facts` changes with anything that a check
    of the server would have to be made again for."""

    name: str
    issued_at: int
    withdrawn: bool
    api_key: str
    public: str
    models: tuple[Model, ...]

    @property
    def facts(self) -> str:
        """Where the server is, how it is spoken to, and which models it has: everything but names and prices."""
        upstreams = sorted(f"{model.providers[0].upstream}" for model in self.models)
        return hashlib.sha256("\n".join([self.api_key, *upstreams]).encode()).hexdigest()


def signing_text(domain: str, account: str, document: str) -> str:
    """What a provider's wallet signs: for whom, by whom, and the digest of the document."""
    digest = hashlib.sha256(document.encode()).hexdigest()
    return f"{domain} wants you to register as a provider with your account:\n{account}\n\nDocument: sha256:{digest}"


def read_signed(body: bytes, *, domain: str) -> Signed:
    """A signed document. Raises `MalformedError("invalid_provider")` for one that is not, whoever sent it."""
    members = parse_object(body, limit=2 * DOCUMENT_LIMIT, code=CODE)
    fields = [members.get(name) for name in ("document", "account", "signature")]
    if not all(isinstance(field, str) for field in fields):
        raise MalformedError(CODE, "document, account and signature are required texts")
    document, account, signature = (str(field) for field in fields)
    network, _, address = account.rpartition(":")
    known = networks.find(network)
    if known is None or len(account) > 160:
        raise MalformedError(CODE, "account: a network and an address as CAIP-10, such as eip155:8453:0x…")
    try:
        signed_by = signer(known.family, address, signing_text(domain, account, document), signature)
    except MalformedError as error:
        raise MalformedError(CODE, f"signature: {error.message}") from error
    if signed_by is None:
        raise MalformedError(CODE, "signature: the account has not signed this document for this gateway")
    return Signed(id=signed_by, account=f"{known.id}:{signed_by}", document=document)


def read_offer(
    document: str, provider: str, *, now: int, api_key: str = "", trusted_hosts: frozenset[str] = frozenset()
) -> Offer:
    """The offer in a document. `api_key` is used where the document has none any more.

    Raises `MalformedError("invalid_provider")` that says which member is wrong.
    """
    members = _members(document)
    stated = members.pop("api_key", "") or api_key
    issued, withdrawn = members.get("issued_at"), members.get("withdrawn", False)
    if type(issued) is not int or issued < 0 or not isinstance(withdrawn, bool):
        raise MalformedError(CODE, "issued_at is a unix second, and withdrawn true or false")
    if not isinstance(stated, str) or not stated.isascii() or not stated.isprintable() or len(stated) > 512:
        raise MalformedError(CODE, "api_key is a text of at most 512 printable characters")
    name = members.get("name")
    if not isinstance(name, str) or not 1 <= len(name) <= 64 or not name.isprintable():
        raise MalformedError(CODE, "name is a text of 1 to 64 characters")
    entries = members.get("models")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MODELS_LIMIT:
        raise MalformedError(CODE, f"models is a list of 1 to {MODELS_LIMIT} objects")
    _check_base(members.get("base_url"), trusted_hosts)
    models = tuple(
        _model(entry, members, provider, stated, f"models[{index}]", now) for index, entry in enumerate(entries)
    )
    if len({model.id for model in models}) < len(models):
        raise MalformedError(CODE, "models: two of one name")
    public = json.dumps(members, default=str, ensure_ascii=False, sort_keys=True)
    return Offer(name=name, issued_at=issued, withdrawn=withdrawn, api_key=stated, public=public, models=models)


def _members(document: str) -> dict[str, Any]:
    if len(document) > DOCUMENT_LIMIT:
        raise MalformedError(CODE, f"document: at most {DOCUMENT_LIMIT} characters")
    parse_object(document.encode(), limit=4 * DOCUMENT_LIMIT, code=CODE)
    # Read once more for its prices: straight from the digits, so that no price ever is a float.
    members: dict[str, Any] = json.loads(document, parse_float=Decimal)
    unknown = members.keys() - _KEYS
    if unknown:
        raise MalformedError(CODE, f"document: unknown member {min(unknown)}; it has {', '.join(sorted(_KEYS))}")
    return members


def _check_base(url: Any, trusted: frozenset[str]) -> None:
    if not isinstance(url, str):
        raise MalformedError(CODE, "base_url is a text")
    host = url.partition("://")[2].partition("/")[0].rpartition(":")[0] or url.partition("://")[2].partition("/")[0]
    try:
        if host in trusted:
            check_url(url, ports=(), secure=False)
        else:
            check_url(url)
    except MalformedError as error:
        raise MalformedError(CODE, f"base_url: {error.message}") from error


def _model(entry: Any, offer: Mapping[str, Any], provider: str, api_key: str, where: str, now: int) -> Model:
    if not isinstance(entry, dict) or not entry.keys() <= _MODEL_KEYS:
        raise MalformedError(CODE, f"{where}: an object with members among {', '.join(sorted(_MODEL_KEYS))}")
    listed = {key: value for key, value in entry.items() if key in _MODEL_KEYS - _MOVED}
    params = {"api_base": offer["base_url"], "format": offer.get("format", "openai")}
    params |= {"model": entry["upstream_model"]} if "upstream_model" in entry else {}
    params |= {"concurrency": entry["concurrency"]} if "concurrency" in entry else {}
    listed |= {"provider_id": provider, "provider_name": offer["name"], "params": params}
    listed["pricing"] = _pricing(entry, where)
    listed["regions"] = offer.get("regions", [])
    try:
        model = model_of(listed, where, {}, now)
    except (MisconfiguredError, MalformedError, TypeError) as error:
        raise MalformedError(CODE, str(getattr(error, "message", error))) from error
    if split_name(model.id)[0]:
        raise MalformedError(CODE, f"{where}: a name that begins with a provider's key is that provider's")
    seller = model.providers[0]
    if seller.upstream is None or seller.price.free:
        raise MalformedError(CODE, f"{where}: a price of more than 0 is required")
    # Somebody else has named this address: it is looked at again whenever it is connected.
    upstream = replace(seller.upstream, api_key=api_key, guarded=True)
    return replace(model, providers=(replace(seller, upstream=upstream),))


_MOVED = frozenset({"upstream_model", "concurrency", "pricing", "input_price", "output_price"})


def _pricing(entry: Mapping[str, Any], where: str) -> Any:
    if "input_price" not in entry and "output_price" not in entry:
        if "pricing" not in entry:
            raise MalformedError(CODE, f"{where}: pricing, or input_price and output_price, is required")
        return entry["pricing"]
    if "pricing" in entry or "input_price" not in entry or "output_price" not in entry:
        raise MalformedError(CODE, f"{where}: either pricing, or input_price and output_price together")
    return {"unit": "per_token", "prompt": entry["input_price"], "completion": entry["output_price"]}
