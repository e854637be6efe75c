"""What runs before every route: head, host, origin, token and rate are checked, and security headers are added.

Contents: `Guard` (ASGI middleware), `failure`, `HEADERS`.

A page of another site can make a browser send requests to a server on loopback. So a server on loopback answers only
to loopback names in `Host` (a name that an attacker points to 127.0.0.1 is refused), a foreign `Origin` is refused
everywhere, and there is no CORS.
"""

from __future__ import annotations

import math
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unembed.serve.heads import client_of, fault, is_loopback, name_of
from unembed.serve.limits import Rates
from unembed.serve.tokens import WrongTokens, bears

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
