"""One town for a session of interop tests, on the chains that all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chains import EvmWorld, SvmWorld
from tests.interop.town import Town


@pytest.fixture(scope="session")
def town(evm_devnet: EvmWorld, svm_devnet: SvmWorld) -> Iterator[Town]:
    """A rich buyer, a seller that has nothing yet, everybody's services: started when first wanted."""
    with Town(evm_devnet, svm_devnet) as everybody:
        yield everybody
