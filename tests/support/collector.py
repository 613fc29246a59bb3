"""A server on loopback that records every request, for tests that nothing is sent."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_EXPERIMENT = {"experiment_id": "1", "name": "mnist-exp", "artifact_location": "mlflow-artifacts:/1"}
_INFO = {"run_id": "a" * 32, "run_uuid": "a" * 32, "experiment_id": "1", "artifact_uri": "mlflow-artifacts:/1/a",
         "status": "RUNNING", "run_name": "r", "start_time": 1}  # fmt: skip
_NOTHING: dict[str, Any] = {"params": [], "tags": [], "metrics": []}


class Collector:
    """Answers MLflow's client so that it continues, and keeps the received requests. A context manager.

    `deleted` is what was deleted in this store: `"experiment"` or `"run"`.
    """

    def __init__(self, deleted: str = "") -> None:
        stage = {True: {"lifecycle_stage": "deleted"}, False: {"lifecycle_stage": "active"}}
        experiment = _EXPERIMENT | stage[deleted == "experiment"]
        info = _INFO | stage[deleted == "run"]
        requests = self.requests = []  # type: ignore[var-annotated]

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                requests.append((self.path, self.headers.get("Authorization"), body))
                found: dict[str, Any] = {}
                if "experiments/" in self.path:
                    found = {"experiment": experiment, "experiments": [experiment]}
                elif "runs/search" in self.path:
                    found = {"runs": []}
                elif "runs/" in self.path:
                    found = {"run": {"info": info, "data": _NOTHING}, "run_info": info}
                content = json.dumps(found).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None, bytes]] = requests
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.uri = f"http://{self.host}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
