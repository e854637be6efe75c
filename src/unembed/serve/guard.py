"""What stands before every route: host, origin, token and rate are checked, and security headers are added.

Contents: `Guard` (ASGI middleware), `is_loopback`, `HEADERS`.

A page of another site can make a browser send requests to a server on loopback. So a server on loopback answers only
to loopback names in `Host` (a name that an attacker points to 127.0.0.1 is refused), a foreign `Origin` is refused
everywhere, and there is no CORS.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine alone."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        host = headers.get("host", "")
        if self.local and not is_loopback(_name(host)):
            return failure(
                421, "This server answers only to localhost, 127.0.0.1 and [::1].", "Use one of them in the address."
            )
        origin = headers.get("origin")
        if origin is not None and _place(origin) != host.lower():
            return failure(403, "The request comes from a page of another site.", "Use the page of this server.")
        if not scope["path"].startswith("/v1"):
            return None
        if self.token is not None and not _bears(headers.get("authorization", ""), self.token):
            return failure(
                401,
                "The token is missing or wrong.",
                "Send it as Authorization: Bearer TOKEN.",
                {"www-authenticate": "Bearer"},
            )
        wait = self.rates.wait(_client(scope))
        if wait:
            return failure(
                429,
                f"More than {self.rates.rate:g} requests a second came from this address.",
                "Send them more slowly.",
                {"retry-after": str(max(1, math.ceil(wait)))},
            )
        return None


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.rsplit(":", 1)[0] if host.count(":") == 1 else host


def _place(origin: str) -> str:
    """Host and port of an origin, empty where it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _bears(header: str, token: str) -> bool:
    kind, _, value = header.partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(value.strip().encode(), token.encode())


def _client(scope: dict[str, Any] | Any) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""
