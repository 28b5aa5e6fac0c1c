"""How a request may name a model (aimo §1.7).

8W7X1tGn…fBUq:deepseek-chat-v3   a provider's key, and its own name for the model: exactly this provider
name:free                        kept whole, because what stands before the colon is no key
vendor/model                     any provider of that model
model                            the same, when only one vendor has a model of that name
"""

from __future__ import annotations

from x402.errors import MalformedError
from x402.schemes.exact_svm_layout import parse_key

NAME_LIMIT = 128


def split_name(name: str) -> tuple[str, str]:
    """The provider's key and the rest, or `""` and the whole name. A key is base58 of exactly 32 bytes."""
    provider, colon, rest = name.partition(":")
    return (provider, rest) if colon and rest and is_key(provider) else ("", name)


def is_key(text: str) -> bool:
    """Whether a text is base58 of 32 bytes, as the providers of AiMo's network are called."""
    if not 32 <= len(text) <= 44:
        return False
    try:
        parse_key(text, "a provider's key")
    except MalformedError:
        return False
    return True


def bare(model_id: str) -> str:
    """A model's id without its vendor."""
    return model_id.rpartition("/")[2]
