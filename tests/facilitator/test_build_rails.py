"""From settings to rails: mainnet only when it is meant, keys checked and never shown. Faults F13, G09."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr
from solders.keypair import Keypair

from x402.errors import MisconfiguredError
from x402.facilitator.service import build_rails
from x402.facilitator.signer import EvmSigner
from x402.networks import BASE_SEPOLIA, SOLANA_DEVNET
from x402.settings import FacilitatorSettings

KEY = "44" * 32


def test_mainnet_is_refused_unless_it_is_meant() -> None:
    key = SecretStr(KEY)

    def build(**members: Any) -> list[str]:
        return [rail.network for rail in build_rails(FacilitatorSettings.read(**members))]

    solana = SecretStr(str(Keypair()))
    assert build(evm_private_key=key, svm_private_key=None) == [BASE_SEPOLIA]
    assert build(evm_private_key=key, svm_private_key=solana) == [BASE_SEPOLIA, SOLANA_DEVNET]
    assert build(evm_private_key=key, svm_private_key=None, evm_network="base", mainnet=True) == ["eip155:8453"]
    cases: dict[str, dict[str, Any]] = {
        "mainnet_refused": {"evm_private_key": key, "svm_private_key": None, "evm_network": "base"},
        "mixed_networks": {"evm_private_key": key, "svm_private_key": solana, "evm_network": "base", "mainnet": True},
        "no_signer": {"evm_private_key": None, "svm_private_key": None},
        "invalid_network": {"evm_private_key": key, "svm_private_key": None, "evm_network": "solana"},
        "invalid_signer": {"evm_private_key": SecretStr(KEY + ","), "svm_private_key": None},
        "no_rpc": {"evm_private_key": key, "svm_private_key": None, "evm_network": "avalanche-fuji"},
    }
    for code, members in cases.items():
        with pytest.raises(MisconfiguredError) as refused:
            build(**members)
        assert refused.value.code == code
        assert KEY not in str(refused.value)
    mixed = {"evm_private_key": key, "svm_private_key": solana, "svm_network": "solana", "mainnet": True}
    with pytest.raises(MisconfiguredError, match="mixed_networks"):
        build(**mixed)


@pytest.mark.parametrize("text", ["", "0x", KEY[:-1], KEY + "00", "g" * 64, "00" * 32, "ff" * 32, "\n" + KEY])
def test_G09_evm_keys_are_checked_and_never_shown(text: str) -> None:
    with pytest.raises(MisconfiguredError) as refused:
        EvmSigner(text)
    assert not text or text not in str(refused.value)
    assert KEY not in repr(EvmSigner(KEY)) + str(vars(EvmSigner(KEY)).keys())
