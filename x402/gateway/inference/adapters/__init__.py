"""The APIs that providers speak, each behind one interface; inside there is only OpenAI's (aimo rows 73, 88)."""

from __future__ import annotations

from collections.abc import Mapping

from x402.gateway.inference.adapters.anthropic_messages import AnthropicMessages
from x402.gateway.inference.adapters.api_format import ApiFormat, Translator
from x402.gateway.inference.adapters.openai_chat import OpenAiChat

__all__ = ["FORMATS", "AnthropicMessages", "ApiFormat", "OpenAiChat", "Translator"]

FORMATS: Mapping[str, ApiFormat] = {"openai": OpenAiChat(), "anthropic": AnthropicMessages()}
"""By the name that `format` has in the price file."""
