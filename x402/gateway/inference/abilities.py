"""What a model can be asked for, told from what it takes and what it makes."""

from __future__ import annotations

from x402.gateway.inference.catalogue import Model

MAKES_CHATS = frozenset({"text"})
MAKES_EMBEDDINGS = frozenset({"embedding", "embeddings"})
MAKES_IMAGES = frozenset({"image"})
"""Output modalities, as price files and catalogues spell them."""

CAPABILITIES = ("chat", "vision", "embeddings", "images")


def capabilities(model: Model) -> tuple[str, ...]:
    """Which of `CAPABILITIES` a model has. `vision` is a chat that looks at images."""
    made = frozenset(model.output_modalities)
    can = {
        "chat": bool(made & MAKES_CHATS),
        "vision": bool(made & MAKES_CHATS) and "image" in model.input_modalities,
        "embeddings": bool(made & MAKES_EMBEDDINGS),
        "images": bool(made & MAKES_IMAGES),
    }
    return tuple(name for name in CAPABILITIES if can[name])
