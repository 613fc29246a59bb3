"""Requests that the demo page's server refuses before it reads them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mnist_exp.serving.request_guard import POLICY, Rate, RequestGuard

HOST = "127.0.0.1:8400"


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def ask(guard: RequestGuard, path: str = "/", host: str = HOST, **headers: str) -> tuple[int, dict[str, str], str]:
    """Return the status, the headers and the body of the answer to a request."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    named = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    encoded = [(name.encode(), value.encode()) for name, value in named.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": encoded}
    asyncio.run(guard(scope, receive, send))
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, sent[1]["body"].decode()


def test_every_answer_has_the_policy():
    """The page can load and contact nothing but its own server, also when a request is refused."""
    for host in (HOST, "elsewhere.example"):
        headers = ask(RequestGuard(_app, [HOST], None), host=host)[1]
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        (HOST, {}, 200),
        (HOST, {"origin": f"http://{HOST}", "sec_fetch_site": "same-origin"}, 200),
        ("elsewhere.example:8400", {}, 421),
        ("127.0.0.1:9", {}, 421),
        ("", {}, 421),
        (HOST, {"origin": "http://elsewhere.example"}, 403),
        (HOST, {"origin": "null"}, 403),
        (HOST, {"sec_fetch_site": "cross-site"}, 403),
    ],
)
def test_other_hosts_and_pages_are_refused(host: str, headers: dict[str, str], status: int):
    """A page from elsewhere cannot reach the server, not even under a name that resolves to this machine."""
    assert ask(RequestGuard(_app, [HOST], None), "/api/setup", host, **headers)[0] == status


def test_a_token_is_required_on_each_request():
    """Only addresses with the token are answered; the app sees them without it."""
    guard = RequestGuard(_app, None, "secret")
    assert ask(guard, "/secret/api/setup")[::2] == (200, "/api/setup")
    assert ask(guard, "/secret/")[::2] == (200, "/")
    for path in ("/", "/api/setup", "/wrong/api/setup", "/secretive/", "*", "/sécret/"):
        assert ask(guard, path)[0] == 403, path


def test_the_rate_is_limited():
    """After a burst, requests are refused until time has passed."""
    rate = Rate(per_second=1e-3, burst=5)
    assert [rate.allows() for _ in range(7)] == [True] * 5 + [False] * 2
    guard = RequestGuard(_app, [HOST], None)
    assert {ask(guard)[0] for _ in range(2000)} == {200, 429}
