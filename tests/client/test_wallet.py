"""Wallets: keys from environment and file, signatures that verify, and nothing that ever shows a key."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from pathlib import Path

import pytest
from eth_account import Account
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature

from x402 import networks
from x402.client.wallet import Wallet
from x402.errors import MisconfiguredError
from x402.schemes import eip712

EVM_KEY = "0x" + "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
SVM = Keypair.from_seed(bytes(range(32)))
SVM_KEY = str(SVM)


def test_addresses_and_signatures() -> None:
    wallet = Wallet(evm=EVM_KEY, svm=SVM_KEY)
    assert wallet.evm_address == Account.from_key(EVM_KEY).address
    assert wallet.svm_address == str(SVM.pubkey())
    digest = bytes(range(32))
    assert eip712.recover(digest, wallet.sign_digest(digest)) == wallet.evm_address
    signature = Signature(wallet.sign_message(b"message"))
    assert signature.verify(Pubkey.from_string(wallet.svm_address), b"message")
    assert wallet.address(networks.BASE) == wallet.evm_address
    assert wallet.address(networks.SOLANA_DEVNET) == wallet.svm_address
    assert wallet.address("bip122:x") == ""


def test_a_wallet_without_a_key_says_so() -> None:
    with pytest.raises(MisconfiguredError, match="no EVM key"):
        Wallet(svm=SVM_KEY).sign_digest(bytes(32))
    with pytest.raises(MisconfiguredError, match="no Solana key"):
        Wallet(evm=EVM_KEY).sign_message(b"")


@pytest.mark.parametrize("key", [EVM_KEY.removeprefix("0x"), EVM_KEY.upper().replace("0X", "0x"), f" {EVM_KEY}\n"])
def test_spellings_of_an_evm_key(key: str) -> None:
    assert Wallet(evm=key).evm_address == Account.from_key(EVM_KEY).address


@pytest.mark.parametrize("key", ["1", "0x12", "0x" + "0" * 64, "f" * 64, "g" * 64, "٣" * 64, "0x" + "1" * 65])
def test_what_is_no_evm_key(key: str) -> None:
    with pytest.raises(MisconfiguredError) as caught:
        Wallet(evm=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["1", "0" * 88, "5" * 88, "5" * 400, "é", "[]", "[1,2]", "[999" + ",1" * 63 + "]", '["a"]', "[1", "[[1]]"]
)
def test_what_is_no_solana_key(key: str) -> None:
    with pytest.raises(MisconfiguredError):
        Wallet(svm=key)


def test_a_keypair_of_two_different_halves_is_refused() -> None:
    mixed = bytes(SVM)[:32] + bytes(Keypair.from_seed(bytes(32)))[32:]
    with pytest.raises(MisconfiguredError):
        Wallet(svm=json.dumps(list(mixed)))


class TestMasked:
    def test_G09_no_rendering_shows_a_key(self) -> None:
        wallet = Wallet(evm=EVM_KEY, svm=SVM_KEY)
        shown = [repr(wallet), str(wallet), f"{wallet}", f"{wallet!r:>10}", "%s" % wallet, repr([wallet])]  # noqa: UP031
        for name in dir(wallet):
            shown.append(repr(getattr(wallet, name)))
        for text in shown:
            assert EVM_KEY[2:] not in text.lower()
            assert SVM_KEY not in text
            assert str(list(bytes(SVM)))[1:40] not in text

    def test_G09_a_wallet_is_not_pickled_and_has_no_dict(self) -> None:
        wallet = Wallet(evm=EVM_KEY)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="pickled"):
                pickle.dumps(wallet, protocol)
        with pytest.raises(TypeError):
            vars(wallet)
        assert copy.copy(wallet) is wallet
        assert copy.deepcopy(wallet) is wallet

    def test_G09_errors_do_not_quote_what_they_were_given(self) -> None:
        for evm, svm in ((EVM_KEY + "0", None), (None, SVM_KEY[:-3]), (None, f"[{SVM_KEY}")):
            with pytest.raises(MisconfiguredError) as caught:
                Wallet(evm=evm, svm=svm)
            text = "".join(traceback.format_exception(caught.value))
            assert (evm or svm or "")[5:30] not in text
            assert caught.value.__cause__ is None


class TestFiles:
    @pytest.mark.parametrize("name", ["wallet.toml", "wallet.json", "wallet"])
    def test_a_saved_wallet_comes_back(self, tmp_path: Path, name: str) -> None:
        wallet = Wallet.new(testnet_only=True)
        path = wallet.save(tmp_path / "deep" / name)
        assert path.stat().st_mode & 0o777 == 0o600
        again = Wallet.from_file(path)
        assert (again.evm_address, again.svm_address) == (wallet.evm_address, wallet.svm_address)
        assert again.testnet_only
        assert [entry.name for entry in path.parent.iterdir()] == [name]

    def test_another_wallets_keys_are_not_overwritten(self, tmp_path: Path) -> None:
        path = Wallet.new().save(tmp_path / "wallet.toml")
        before = path.read_text()
        with pytest.raises(MisconfiguredError, match="exists"):
            Wallet.new().save(path)
        assert path.read_text() == before
        Wallet.new().save(path, overwrite=True)
        assert path.read_text() != before

    def test_a_solana_keypair_file(self, tmp_path: Path) -> None:
        path = tmp_path / "id.json"
        path.write_text(json.dumps(list(bytes(SVM))))
        path.chmod(0o600)
        assert Wallet.from_file(path).svm_address == str(SVM.pubkey())

    def test_a_file_that_others_may_read_is_warned_about(self, tmp_path: Path) -> None:
        path = Wallet.new().save(tmp_path / "wallet.toml")
        path.chmod(0o644)
        with pytest.warns(UserWarning, match="chmod 600"):
            Wallet.from_file(path)

    def test_a_table_named_wallet(self, tmp_path: Path) -> None:
        path = tmp_path / "x402.toml"
        path.write_text(f'[wallet]\nevm_private_key = "{EVM_KEY}"\n')
        path.chmod(0o600)
        assert Wallet.from_file(path).evm_address == Account.from_key(EVM_KEY).address

    @pytest.mark.parametrize("text", ["", "x", "{", "[1,2", "a = 1", "{}", "evm_private_key = 5"])
    def test_files_that_are_no_wallet(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "wallet"
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(MisconfiguredError):
            Wallet.from_file(path)

    def test_no_file_at_all_and_a_giant(self, tmp_path: Path) -> None:
        with pytest.raises(MisconfiguredError):
            Wallet.from_file(tmp_path / "none")
        with pytest.raises(MisconfiguredError):
            Wallet.from_file(tmp_path)
        (tmp_path / "big").write_bytes(b"x" * 100_000)
        with pytest.raises(MisconfiguredError):
            Wallet.from_file(tmp_path / "big")


class TestEnvironment:
    @pytest.mark.parametrize("name", ["X402_EVM_PRIVATE_KEY", "EVM_PRIVATE_KEY", "BLOCKRUN_WALLET_KEY"])
    def test_evm_names(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv(name, EVM_KEY)
        assert Wallet.from_env().evm_address == Account.from_key(EVM_KEY).address

    @pytest.mark.parametrize(
        "name", ["X402_SVM_PRIVATE_KEY", "SVM_PRIVATE_KEY", "SOLANA_PRIVATE_KEY", "SOLANA_WALLET_KEY"]
    )
    def test_solana_names(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv(name, SVM_KEY)
        assert Wallet.from_env().svm_address == str(SVM.pubkey())

    @pytest.mark.parametrize(
        ("kind", "key", "family"),
        [("evm", EVM_KEY, "evm"), ("solana", SVM_KEY, "svm"), ("", EVM_KEY, "evm"), ("", SVM_KEY, "svm")],
    )
    def test_aimo_names(self, monkeypatch: pytest.MonkeyPatch, kind: str, key: str, family: str) -> None:
        monkeypatch.setenv("AIMO_PRIVATE_KEY", key)
        monkeypatch.setenv("AIMO_WALLET_TYPE", kind)
        assert bool(Wallet.from_env().evm_address) is (family == "evm")

    def test_the_prefixed_name_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EVM_PRIVATE_KEY", "0x" + "77" * 32)
        monkeypatch.setenv("X402_EVM_PRIVATE_KEY", EVM_KEY)
        assert Wallet.from_env().evm_address == Account.from_key(EVM_KEY).address

    def test_a_wallet_file_and_nothing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        with pytest.raises(MisconfiguredError, match="X402_EVM_PRIVATE_KEY"):
            Wallet.from_env()
        wallet = Wallet.new()
        monkeypatch.setenv("X402_WALLET_FILE", str(wallet.save(tmp_path / "wallet.toml")))
        assert Wallet.from_env().evm_address == wallet.evm_address

    def test_an_unknown_wallet_type(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIMO_PRIVATE_KEY", EVM_KEY)
        monkeypatch.setenv("AIMO_WALLET_TYPE", "bitcoin")
        with pytest.raises(MisconfiguredError):
            Wallet.from_env()
