"""The token that clients send: which tokens will do, and how wrong ones are slowed.

Contents: `check_token`, `bears`, `WrongTokens`.
"""

from __future__ import annotations

import hmac
import math
import re
import time
from collections import OrderedDict

from unembed.errors import InputError

LEAST_BITS = 64
"""What a token must be worth where other machines can try it."""

MAKE_ONE = 'Make one with: unembed serve --token "$(openssl rand -hex 16)".'
_WORDS = re.compile(
    "password|passwort|passwd|token|secret|unembed|admin|user|test|demo|example|welcome|letmein|change_?me|qwertz?y?|"
    "server|login|hello|azerty|asdf",
    re.IGNORECASE,
)


def check_token(token: str, local: bool) -> None:
    """Refuse a token that cannot be sent, or that can be guessed.

    Args:
        token: as the user gives it.
        local: whether the server listens on loopback alone.

    Raises:
        InputError: it is empty, holds what a header does not carry as it is, or is weak and others can try it.
    """
    if not token:
        raise InputError("The token is empty.", MAKE_ONE)
    if wrong := [place for place, sign in enumerate(token, 1) if not "!" <= sign <= "~"]:
        raise InputError(
            f"Character {wrong[0]} of the token is a space, a control character or outside ASCII, and clients send "
            "such characters in different ways.",
            f"Take letters, digits and punctuation of ASCII. {MAKE_ONE}",
        )
    if len(token) > 512:
        raise InputError(f"The token has {len(token):,} characters.", "Take at most 512.")
    if not local and strength(token) < LEAST_BITS:
        raise InputError(
            "The token is too short or too regular for an address that other machines can reach.", MAKE_ONE
        )


def strength(token: str) -> float:
    """Estimate the bits of a token: what repeats, runs on (aaa, 123, cba) or is a common word is worth nothing."""
    rest = _WORDS.sub("", token)
    kinds = ((r"[a-z]", 26), (r"[A-Z]", 26), (r"[0-9]", 10), (r"[^a-zA-Z0-9]", 16))
    alphabet = sum(size for pattern, size in kinds if re.search(pattern, rest))
    new = 0
    for place, sign in enumerate(rest):
        runs_on = place > 0 and abs(ord(sign) - ord(rest[place - 1])) <= 1
        repeats = place > 1 and rest[place - 2 : place + 1] in rest[: place - 1]
        new += not (runs_on or repeats)
    return new * math.log2(alphabet) if alphabet else 0.0


def bears(header: bytes, token: str) -> bool:
    """Whether an Authorization header holds the token, in a time that does not depend on where they differ."""
    kind, _, value = header.partition(b" ")
    return kind.lower() == b"bearer" and hmac.compare_digest(value.strip(b" \t"), token.encode("ascii"))


class WrongTokens:
    """Clients that sent wrong tokens wait: after `free` of them 1 second, then 2, 4, ... up to `longest`.

    The right token is taken at any time: behind a proxy all clients have one address, and who guesses may not lock the
    others out. What keeps guesses hopeless is the length of the token (`weakness`).
    """

    def __init__(self, free: int = 5, longest: float = 60.0, most: int = 4096) -> None:
        self.free, self.longest, self.most = free, longest, most
        self._found: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Seconds that a client has to wait, 0 for none."""
        return max(0.0, self._found.get(client, (0, 0.0))[1] - time.monotonic())

    def wrong(self, client: str) -> None:
        """Count a wrong token."""
        count = self._found.pop(client, (0, 0.0))[0] + 1
        pause = min(self.longest, 2.0 ** min(count - self.free, 16)) if count >= self.free else 0.0
        self._found[client] = (count, time.monotonic() + pause)
        while len(self._found) > self.most:
            self._found.popitem(last=False)
