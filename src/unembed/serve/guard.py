"""What runs before every route: head, host, origin, token and rate are checked, and security headers are added.

Contents: `Guard` (ASGI middleware), `failure`, `HEADERS`; `fault`, `name_of`, `is_loopback`, `client_of`: what the head
of a request must be, and who sends it; `check_token`, `bears`, `WrongTokens`: which tokens will do, and how wrong ones
are slowed.

A page of another site can make a browser send requests to a server on loopback. So a server on loopback answers only
to loopback names in `Host` (a name that an attacker points to 127.0.0.1 is refused), a foreign `Origin` is refused
everywhere, and there is no CORS. A head that two programs may read in two ways (two hosts, two lengths, a length beside
chunks) is refused: what is before a server and the server must not disagree on where a request ends or for whom it is.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import re
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unembed.errors import InputError
from unembed.serve.limits import Rates

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def failure(status: int, message: str, hint: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer that says what is wrong and what to do."""
    return JSONResponse({"error": {"message": message, "hint": hint}}, status, headers)


class Guard:
    """Checks each request and adds headers to each answer.

    Args:
        app: what it guards.
        rates: requests of each client.
        token: what clients must send as `Authorization: Bearer TOKEN` to /v1, or None.
        local: whether the server listens on loopback alone.
    """

    def __init__(self, app: ASGIApp, rates: Rates, token: str | None, local: bool) -> None:
        self.app, self.rates, self.token, self.local = app, rates, token, local
        self.wrong_tokens = WrongTokens()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                present = {name.lower() for name, _ in headers}
                headers += [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in present]
                if b"cache-control" not in present:
                    cache = b"no-cache" if not scope["path"].startswith("/v1") else b"no-store"
                    headers.append((b"cache-control", cache))
                message = {**message, "headers": headers}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, guarded)
        else:
            await self.app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        wrong = fault(scope)
        if wrong is not None:
            refused = failure(400, f"{wrong}.", "Send one HTTP/1.1 request of the usual form.", {"connection": "close"})
            return refused
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.local and not is_loopback(name_of(host)):
            return failure(
                421, "This server answers only to localhost, 127.0.0.1 and [::1].", "Use one of them in the address."
            )
        origin = headers.get(b"origin")
        if origin is not None and _place(origin.decode("latin-1")) != host:
            return failure(403, "The request comes from a page of another site.", "Use the page of this server.")
        if not scope["path"].startswith("/v1"):
            return None
        client = client_of(scope)
        return self._unknown(client, headers.get(b"authorization", b"")) or self._too_often(client)

    def _unknown(self, client: str, sent: bytes) -> JSONResponse | None:
        """Refuse who has not the token."""
        if self.token is None:
            return None
        if bears(sent, self.token):
            return None
        wait = self.wrong_tokens.wait(client)
        if wait:
            return _later("Several wrong tokens came from this address.", "Wait, or send the right one.", wait)
        if sent:
            self.wrong_tokens.wrong(client)
        return failure(
            401,
            "The token is missing or wrong.",
            "Send it as Authorization: Bearer TOKEN.",
            {"www-authenticate": "Bearer"},
        )

    def _too_often(self, client: str) -> JSONResponse | None:
        wait = self.rates.wait(client)
        what = f"More than {self.rates.rate:g} requests a second came from this address."
        return _later(what, "Send them more slowly.", wait) if wait else None


def _later(what: str, hint: str, wait: float) -> JSONResponse:
    return failure(429, what, hint, {"retry-after": str(max(1, math.ceil(wait)))})


def _place(origin: str) -> str:
    """Host and port of an origin, empty where it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


SINGLE = frozenset({b"host", b"origin", b"authorization", b"content-type", b"content-length", b"transfer-encoding"})
_HOST = re.compile(rb"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")


def fault(scope: Scope) -> str | None:
    """Tell what is wrong with a head, None where nothing is."""
    if scope["http_version"] not in ("1.0", "1.1"):
        return "The request speaks another HTTP than 1.0 and 1.1"
    if not scope["raw_path"].startswith(b"/"):
        return "The request names no path that begins with a slash"
    seen: set[bytes] = set()
    for name, value in scope["headers"]:
        if name in seen and name in SINGLE:
            return f"The request has two headers {name.decode('ascii')}"
        seen.add(name)
        if name == b"host" and not _is_host(value):
            return "The header host names no host and port"
    if b"host" not in seen and scope["http_version"] == "1.1":
        return "The request has no header host"
    if b"transfer-encoding" in seen and (b"content-length" in seen or scope["http_version"] == "1.0"):
        return "The request gives the length of its body in two ways"
    return None


def _is_host(value: bytes) -> bool:
    found = _HOST.fullmatch(value)
    if found is None or int(found[2] or 0) > 65535:
        return False
    if value.startswith(b"["):
        try:
            ipaddress.IPv6Address(found[1][1:-1].decode("ascii"))
        except ValueError:
            return False
    return True


def name_of(host: str) -> str:
    """The name in a well-formed Host header, without the port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine alone."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def client_of(scope: Scope) -> str:
    """Name the client behind a request: its IPv4 address, or the /64 network that an IPv6 address is in."""
    return client_at(scope["client"][0]) if scope.get("client") else ""


def client_at(host: str) -> str:
    """Name the client at an address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if not address.is_loopback:
            return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


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
            f"Use ASCII letters, digits and punctuation. {MAKE_ONE}",
        )
    if len(token) > 512:
        raise InputError(f"The token has {len(token):,} characters.", "Use at most 512.")
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
