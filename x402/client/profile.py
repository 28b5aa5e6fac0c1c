"""The gateways that a caller can speak to, by name: where they are, who one is there, and how they write (aimo §1.7).

A profile is data. What it says about a gateway's address is a default, which a program or the environment overrides;
everything else says how to talk to whoever answers there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from x402.client.envelope import Envelope
from x402.errors import MalformedError, MisconfiguredError
from x402.schemes.exact_svm_layout import parse_key


class Credential(StrEnum):
    """Ways to say who one is, or that it does not matter."""

    KEY = "key"
    SIGN_IN = "sign-in"
    PAYMENT = "payment"


class ModelForm(StrEnum):
    """How a model is named (aimo row 20, §1.7)."""

    BARE = "name"
    VENDOR = "vendor/name"
    DIRECT = "provider:name"


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of gateway.

    `base` ends before `/chat/completions`, and is `""` when it has to be named. `credentials` are those that are sent,
    each when there is one; `forms` how it takes a model's name. `version` is the x402 version in which a 402 is read
    that is written in both; None takes what the seller prefers. `envelope` says whether a success may be wrapped.
    """

    name: str
    base: str
    credentials: tuple[Credential, ...]
    forms: frozenset[ModelForm]
    version: int | None
    envelope: Envelope

    @property
    def needs_key(self) -> bool:
        """Whether nothing but a key opens it."""
        return self.credentials == (Credential.KEY,)

    @property
    def signs_in(self) -> bool:
        """Whether a wallet says who it is here without being told to."""
        return self.credentials[0] is Credential.SIGN_IN

    def url(self, path: str, base: str = "") -> str:
        """An address below `base`, or below the profile's own. Joined as text: urljoin would drop the last part of a
        base without a trailing slash (aimo §1.7)."""
        return f"{(base or self.base).rstrip('/')}/{path.lstrip('/')}"

    def check_model(self, model: str) -> None:
        """Raise `MalformedError("invalid_model")` for a name in a form that this kind of gateway does not know.

        It costs nothing here; there it would cost a request, or a payment.
        """
        form = form_of(model)
        if form not in self.forms:
            known = " or ".join(sorted(self.forms))
            raise MalformedError("invalid_model", f"{model[:80]!r} is {form}; {self.name} knows models as {known}")


def form_of(model: str) -> ModelForm:
    """How a model is named. Only a Solana key before the first colon makes a provider of it, so a tag such as
    `name:free` stays with its name."""
    provider, colon, _ = model.partition(":")
    if colon:
        try:
            parse_key(provider, "provider")
        except MalformedError:
            pass
        else:
            return ModelForm.DIRECT
    return ModelForm.VENDOR if "/" in model else ModelForm.BARE


def profile(name: str | Profile) -> Profile:
    """A profile by its name. Raises `MisconfiguredError("unknown_profile")`."""
    if isinstance(name, Profile):
        return name
    found = PROFILES.get(name)
    if found is None:
        raise MisconfiguredError("unknown_profile", f"no profile {name[:40]!r}; there are {', '.join(PROFILES)}")
    return found


_ROUTED = frozenset({ModelForm.VENDOR, ModelForm.DIRECT})
_NAMED = frozenset({ModelForm.BARE, ModelForm.VENDOR})

OURS = Profile(
    "ours", "", (Credential.KEY, Credential.SIGN_IN, Credential.PAYMENT), frozenset(ModelForm), None, Envelope.WRAPPED
)
DEVNET_KEY = Profile(
    "devnet-key", "https://devnet.aimo.network/api/v1", (Credential.KEY,), _ROUTED, None, Envelope.PLAIN
)
DEVNET_X402 = Profile(
    "devnet-x402", "https://devnet.aimo.network/api/alpha", (Credential.PAYMENT,), _ROUTED, 1, Envelope.PLAIN
)
BETA_SIWX = Profile(
    "beta-siwx", "https://beta.aimo.network/api/v1", (Credential.SIGN_IN, Credential.PAYMENT), _NAMED, 2,
    Envelope.PLAIN,
)  # fmt: skip
LEGACY = Profile("legacy", "https://api.aimo.network/v1", (Credential.KEY,), _NAMED, None, Envelope.WRAPPED)

PROFILES = {known.name: known for known in (OURS, DEVNET_KEY, DEVNET_X402, BETA_SIWX, LEGACY)}
"""Every profile by its name (aimo rows 62-65)."""
