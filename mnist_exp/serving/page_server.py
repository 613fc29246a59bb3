"""Serve the demo page, and answer its requests.

| request | answer |
|---|---|
| `GET /`, `/demo.css`, `/demo.js` | the page |
| `GET /api/setup` | the models, their classes and layers, the number of examples |
| `POST /api/respond?models=0,1` with the pixels of an image | figures and maps (`pack`) |
| `GET /api/example?number=17` | an image of the test set |
| `POST /api/photograph` with an image file | the models' inputs for it |
| `GET /api/runs`, `POST /api/runs` with the `id` of one | the runs that can be added; the added model |
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from mnist_exp.data.dataset import Images
from mnist_exp.engine.live_view import Answer
from mnist_exp.errors import MnistExpError
from mnist_exp.serving.demo_session import DemoSession
from mnist_exp.serving.listening import host_names, is_loopback
from mnist_exp.serving.request_guard import Rate, RequestGuard

_PAGE = Path(__file__).parent / "page"
_FILES = {"/": "demo.html", "/demo.css": "demo.css", "/demo.js": "demo.js"}
_LARGEST_FILE = 10_000_000  # bytes, of a photograph
_LARGEST_NAME = 4096  # bytes
_TOKEN_BYTES = 16


class PageServer:
    """The server of the demo page."""

    def __init__(self, session: DemoSession, listener: socket.socket) -> None:
        """Prepare the server. If other machines can connect to the socket, the address contains a token."""
        self._session, self._listener = session, listener
        local = is_loopback(listener)
        self.token = None if local else secrets.token_urlsafe(_TOKEN_BYTES)
        """The first part of the address's path; None if only this machine can connect."""
        is_anywhere = listener.getsockname()[0] in ("0.0.0.0", "::")
        hosts = None if is_anywhere else host_names(*listener.getsockname()[:2])
        self._slow = Rate(per_second=4, burst=12)
        routes = [
            *(Route(path, self._file) for path in _FILES),
            Route("/api/setup", self._setup),
            Route("/api/respond", self._respond, methods=["POST"]),
            Route("/api/example", self._example),
            Route("/api/photograph", self._photograph, methods=["POST"]),
            Route("/api/runs", self._runs),
            Route("/api/runs", self._add_run, methods=["POST"]),
        ]
        self.app = RequestGuard(Starlette(routes=routes), hosts, self.token)

    def run(self) -> None:
        """Answer requests until SIGINT or SIGTERM."""
        config = uvicorn.Config(
            self.app,
            log_config=None,
            log_level="critical",  # malformed requests are not worth a line
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            server_header=False,
            proxy_headers=False,
        )
        _Server(config).run(sockets=[self._listener])

    async def _file(self, request: Request) -> Response:
        return FileResponse(_PAGE / _FILES[request.url.path])

    async def _setup(self, request: Request) -> Response:
        return JSONResponse(self._session.describe())

    async def _respond(self, request: Request) -> Response:
        shape = self._session.shape
        numbers = self._model_numbers(request.query_params.get("models", "0"))
        size = int(np.prod(shape))
        pixels = await _body(request, size)
        if len(pixels) != size:
            raise HTTPException(400, f"expected {size} bytes, one per value of a pixel, found {len(pixels)}")
        image: Images = np.frombuffer(pixels, np.uint8).reshape(shape)
        answers = await run_in_threadpool(self._session.respond, numbers, image)
        return Response(pack(answers), media_type="application/octet-stream")

    def _model_numbers(self, text: str) -> list[int]:
        """Parse `0,1`. Raises `HTTPException`."""
        count = len(self._session.models)
        numbers = [int(part) if part.isascii() and part.isdigit() else count for part in text[:100].split(",")]
        if len(numbers) > 2 or max(numbers) >= count:
            raise HTTPException(400, f"models: must be one or two of 0 to {count - 1}")
        return numbers

    async def _example(self, request: Request) -> Response:
        text = request.query_params.get("number", "")[:20]
        found = self._session.example(int(text)) if text.isascii() and text.isdigit() else None
        if found is None:
            raise HTTPException(404, "there is no such example")
        return JSONResponse(found)

    async def _photograph(self, request: Request) -> Response:
        self._slow_down()
        content = await _body(request, _LARGEST_FILE)
        return await _reported(self._session.read_photograph, content)

    async def _runs(self, request: Request) -> Response:
        self._slow_down()
        return await _reported(self._session.list_runs)

    async def _add_run(self, request: Request) -> Response:
        self._slow_down()
        wanted = (await _body(request, _LARGEST_NAME)).decode(errors="replace")

        def add() -> dict[str, Any]:
            number = self._session.add_run(wanted)
            return {"number": number, "model": self._session.models[number].describe()}

        return await _reported(add)

    def _slow_down(self) -> None:
        if not self._slow.allows():
            raise HTTPException(429, "too many requests; wait a second")


class _Server(uvicorn.Server):
    """A server that Ctrl-C or SIGTERM ends at once, without waiting for browsers to close their connections."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = self.force_exit = True


async def _body(request: Request, most: int) -> bytes:
    """Return a request's body. Raises `HTTPException` as soon as it is longer than `most` bytes."""
    refusal = HTTPException(413, f"at most {most:,} bytes are accepted", {"Connection": "close"})
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > most:
        raise refusal
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise refusal
    return bytes(body)


async def _reported(work: Any, *arguments: object) -> Response:
    """Return the result of slow work as JSON, or the message of its error with status 422."""
    try:
        return JSONResponse(await run_in_threadpool(work, *arguments))
    except MnistExpError as error:
        return Response(str(error), 422, media_type="text/plain")


def pack(answers: Sequence[Answer]) -> bytes:
    """Return answers as bytes: the length of their figures' JSON (4 bytes, little-endian), the JSON, the maps."""
    head = json.dumps([answer.figures for answer in answers], allow_nan=False, separators=(",", ":")).encode()
    return b"".join([len(head).to_bytes(4, "little"), head, *(answer.maps for answer in answers)])
