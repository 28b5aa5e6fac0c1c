"""E05: addresses that others have named, in every spelling that would lead into the private network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from x402.errors import MalformedError
from x402.ports.public_web import NotPublic, PublicWeb, check_url, is_public

PRIVATE = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1",
    "169.254.169.254", "169.254.0.1", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "100::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1", "::127.0.0.1", "::169.254.169.254",
    "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::",
    "2001:0:4136:e378:8000:63bf:56ff:fdfe",    "not an address", "",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
SPELLINGS = [
    "http://example.com", "ftp://example.com/", "file:///etc/passwd", "https://", "https:///x", "//example.com",
    "https://user:pass@example.com", "https://user@example.com", "https://example.com#x", "https://example.com/?a=b",
    "https://example.com:22", "https://example.com:8443", "https://example.com:6379",
    "https://127.0.0.1/", "https://[::1]/", "https://169.254.169.254/latest", "https://2130706433",
    "https://0x7f000001", "https://0177.0.0.1", "https://127.1", "https://0x7f.1",
    "https://127.0.1", "gopher://x", "https://exa mple.com", "", "javascript:alert(1)", "https://[::1", "https://[::1]:70000",
]  # fmt: skip


class Inner(httpx.AsyncBaseTransport):
    """What would have been connected."""

    def __init__(self) -> None:
        self.seen: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        return httpx.Response(302, headers={"location": "http://169.254.169.254/"})


def web(*answers: Sequence[str], **options: Any) -> tuple[httpx.AsyncClient, Inner]:
    inner, turns = Inner(), iter(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return next(turns)

    return httpx.AsyncClient(transport=PublicWeb(inner, resolve=resolve, **options)), inner


@pytest.mark.parametrize("address", PRIVATE)
async def test_E05_a_host_in_a_private_network_is_never_connected(address: str) -> None:
    assert not is_public(address)
    client, inner = web([address], ["1.1.1.1", address])
    for _ in range(2):
        with pytest.raises(NotPublic):
            await client.get("https://harmless.example/")
    assert inner.seen == []


@pytest.mark.parametrize("address", PUBLIC)
async def test_E05_control_a_public_host_is_connected_at_the_address_that_was_checked(address: str) -> None:
    assert is_public(address)
    client, inner = web([address])
    response = await client.post("https://provider.example/v1", json={})
    assert response.status_code == 302, "and a redirect is not followed"
    (request,) = inner.seen
    assert request.url.host == address
    assert request.headers["host"] == "provider.example"
    assert request.extensions["sni_hostname"] == "provider.example"


async def test_E05_a_name_that_changes_its_mind_is_asked_once() -> None:
    client, inner = web(["1.1.1.1"], ["127.0.0.1"])
    await client.get("https://rebinding.example/")
    assert inner.seen[0].url.host == "1.1.1.1"
    with pytest.raises(NotPublic):
        await client.get("https://rebinding.example/")
    assert len(inner.seen) == 1


async def test_E05_literal_private_addresses_are_refused_by_the_real_resolver() -> None:
    async with httpx.AsyncClient(transport=PublicWeb()) as client:
        for url in ("http://127.0.0.1:9/", "http://[::1]:9/", "http://localhost:9/", "http://2130706433:9/"):
            with pytest.raises(httpx.ConnectError):
                await client.get(url)


async def test_a_host_that_the_operator_trusts_is_connected_as_it_is() -> None:
    client, inner = web(allow=frozenset({"models.internal"}))
    await client.get("http://models.internal:9000/")
    assert inner.seen[0].url.host == "models.internal"


@pytest.mark.parametrize("text", SPELLINGS)
def test_E05_a_url_that_smells_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        check_url(text)
    assert caught.value.code == "invalid_url"


@pytest.mark.parametrize(
    "text", ["https://api.example.com/v1", "https://1.1.1.1/v1", "https://[2606:4700:4700::1111]/v1"]
)
def test_E05_control_an_ordinary_url_passes(text: str) -> None:
    assert check_url(text).scheme == "https"
