"""What the head of a request must be, and who sends it.

Contents: `fault`, `name_of`, `is_loopback`, `client_of`.

A head that two programs may read in two ways (two hosts, two lengths, a length beside chunks) is refused: what is
before a server and the server must not disagree on where a request ends or for whom it is.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.types import Scope

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
