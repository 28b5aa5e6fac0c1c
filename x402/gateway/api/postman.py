"""The OpenAPI document as a Postman collection, version 2.1 (aimo row 12)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_FORMAT = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
_EXAMPLES: Mapping[str, Any] = {
    "ChatRequest": {"model": "demo/echo-1", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 100},
    "EmbeddingsRequest": {"model": "demo/embed-1", "input": "The quick brown fox"},
    "BatchRequest": {
        "requests": [{"body": {"model": "demo/echo-1", "messages": [{"role": "user", "content": "Hello!"}]}}]
    },
    "DepositRequest": {"amount": "5.00"},
    "ImagesRequest": {"model": "demo/picture-1", "prompt": "A sunset over the sea", "size": "1024x1024"},
}


def collection(document: Mapping[str, Any]) -> dict[str, Any]:
    """One folder for each tag; `baseUrl` and `apiKey` are variables of the collection."""
    folders: dict[str, list[dict[str, Any]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["other"])[0]
            folders.setdefault(tag, []).append(_request(path, method.upper(), operation))
    info = document["info"]
    return {
        "info": {"name": info["title"], "description": info.get("description", ""), "schema": _FORMAT},
        "variable": [{"key": "baseUrl", "value": "http://127.0.0.1:4021"}, {"key": "apiKey", "value": ""}],
        "item": [{"name": tag, "item": requests} for tag, requests in folders.items()],
    }


def _request(path: str, method: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    # Postman writes a path's variables as `:name`.
    parts = [f":{part[1:-1]}" if part.startswith("{") else part for part in path.strip("/").split("/")]
    url: dict[str, Any] = {"raw": "/".join(["{{baseUrl}}", *parts]), "host": ["{{baseUrl}}"], "path": parts}
    request: dict[str, Any] = {"method": method, "url": url, "description": operation.get("description", "")}
    headers = [
        {"key": parameter["name"], "value": "", "disabled": True, "description": parameter.get("description", "")}
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "header"
    ]
    body = _body(operation)
    if body is not None:
        headers.insert(0, {"key": "Content-Type", "value": "application/json"})
        text = json.dumps(body, indent=2)
        request["body"] = {"mode": "raw", "raw": text, "options": {"raw": {"language": "json"}}}
    return {"name": f"{method} {path}", "request": request | {"header": headers}}


def _body(operation: Mapping[str, Any]) -> Any:
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if schema is None:
        return None
    first = schema.get("oneOf", [schema])[0]
    return _EXAMPLES.get(str(first.get("$ref", "")).rpartition("/")[2], {})
