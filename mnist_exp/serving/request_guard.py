"""Refuse requests that a page of this server would not send: wrong host, origin, token, size or rate."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Rate:
    """A limit on requests: `per_second` on average, `burst` at once."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second, self._burst = per_second, burst
        self._left, self._since = float(burst), time.monotonic()

    def allows(self) -> bool:
        """Return whether another request is allowed now, and count it if so."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._since) * self._per_second)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class RequestGuard:
    """Passes a request on to the app if it comes from the server's own page, and adds the security headers."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None, token: str | None) -> None:
        """Create the guard.

        Args:
            app: The app.
            hosts: The accepted values of the header `Host`; None accepts all, which only a token makes safe.
            token: The first part of each path; None if paths have none.
        """
        self._app, self._hosts, self._token = app, hosts, token
        self._rate = Rate(per_second=150, burst=300)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        status, why = self._refusal(scope)
        if status:
            await PlainTextResponse(why, status)(scope, receive, send_with_headers)
            return
        await self._app(self._without_token(scope), receive, send_with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str]:
        """Return the status and reason of a refusal; status 0 for a request to be answered."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts is not None and host.lower() not in self._hosts:
            return 421, "this page is only available at its own address"
        if origin is not None and origin.lower() != f"http://{host.lower()}":
            return 403, "the request comes from another page"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and "/api/" in scope["path"]:
            return 403, "the request comes from another page"
        first = scope["path"].removeprefix("/").partition("/")[0]
        if self._token and not secrets.compare_digest(first.encode(), self._token.encode()):
            return 403, "the address must contain the token that the command printed"
        if not self._rate.allows():
            return 429, "too many requests"
        return 0, ""

    def _without_token(self, scope: Scope) -> Scope:
        if not self._token:
            return scope
        return {**scope, "path": scope["path"].removeprefix(f"/{self._token}") or "/"}
