"""Who may talk to the studio: pages that this server gave out, on this machine, with the token of this start.

Every request must name this server in `Host` (a foreign name that resolves to this machine is refused: DNS rebinding),
and where it says where it comes from, that must be this server too. Everything under `/api` needs the token. POST takes
JSON only, which a foreign page cannot send without asking first, and nobody is answered when asking.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.exceptions import HTTPException

from samtune.errors import SamtuneError, UsageError

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

TOKEN_HEADER = b"x-samtune-token"
MOST_BYTES = 32 << 20
"""Longest body of a request; a mask of 100 million pixels takes less."""
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; script-src 'self'; style-src 'self'; connect-src 'self'; "
        b"object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True)
class Guarded:
    """An ASGI application behind the checks.

    Attributes:
        app: what is behind.
        port: where the server listens.
        token: what every request to `/api` must bring.
    """

    app: ASGIApp
    port: int
    token: str

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Check a request, and pass it on or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            await respond(send_with_headers, *refused)
            return
        await self.app(scope, _CappedBody(receive).receive, send_with_headers)

    def _refusal(self, scope: Message) -> tuple[int, SamtuneError] | None:
        """Status and error of a request that is not passed on."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        names = {f"{host}:{self.port}" for host in ("127.0.0.1", "localhost")}
        hosts = [value.decode("latin-1").lower() for value in headers.get(b"host", [])]
        if len(hosts) != 1 or hosts[0] not in names:
            return 403, _foreign("Host", hosts, names)
        origins = [value.decode("latin-1").lower() for value in headers.get(b"origin", [])]
        if not {f"http://{host}" for host in names}.issuperset(origins):
            return 403, _foreign("Origin", origins, names)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            found = scope["method"]
            return 405, UsageError.of(expected="GET, HEAD or POST", found=found, where="method")
        if not scope["path"].startswith("/api/"):
            return None
        if headers.get(b"sec-fetch-site", [b"same-origin"])[0] not in (b"same-origin", b"none"):
            return 403, _foreign("Sec-Fetch-Site", ["another site"], names)
        tokens = headers.get(TOKEN_HEADER, [])
        if len(tokens) != 1 or not hmac.compare_digest(tokens[0], self.token.encode()):
            return 401, UsageError.of(
                expected="the token of this start of the studio",
                found="none" if not tokens else "another one",
                where="X-Samtune-Token",
                do="open the address that samtune studio printed",
            )
        return self._refused_body(scope, headers)

    def _refused_body(self, scope: Message, headers: dict[bytes, list[bytes]]) -> tuple[int, SamtuneError] | None:
        if scope["method"] != "POST":
            return None
        kind = headers.get(b"content-type", [b""])[0].split(b";")[0].strip().lower()
        if kind != b"application/json":
            found = kind.decode("latin-1") or "no content type"
            return 415, UsageError.of(expected="application/json", found=found, where="Content-Type")
        length = headers.get(b"content-length", [b"0"])[0]
        if not length.isdigit() or int(length) > MOST_BYTES:
            return 413, _too_long(f"{length.decode('latin-1')} bytes")
        return None


class _CappedBody:
    """Counts what comes in: a body without a length may not end."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._bytes = receive, 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > MOST_BYTES:
            raise HTTPException(413, f"a body of more than {MOST_BYTES >> 20} MiB")
        return message


def error_body(error: SamtuneError, **more: Any) -> dict[str, Any]:
    """An error as the page shows it."""
    return {"error": error.parts(), **more}


async def respond(send: Send, status: int, error: SamtuneError) -> None:
    """Answer with an error.

    The server reads what is still to come of the request and drops it: closed with bytes unread, the connection would
    be reset, and the answer could be lost on its way. Only a body that is too long is not waited for.
    """
    body = json.dumps(error_body(error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _foreign(name: str, found: list[str], names: set[str]) -> SamtuneError:
    return UsageError.of(
        expected=f"a request to this server from its own page, {' or '.join(sorted(names))}",
        found=", ".join(found) or "none",
        where=name,
        do="open the address that samtune studio printed; from another machine, through an SSH tunnel to the same port",
    )


def _too_long(found: str) -> SamtuneError:
    return UsageError.of(expected=f"a body of at most {MOST_BYTES >> 20} MiB", found=found, where="body")
