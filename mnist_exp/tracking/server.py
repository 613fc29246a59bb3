"""Ask an MLflow server without importing MLflow, which takes a second."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import ssl
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException, HTTPMessage
from typing import IO, Any

from mnist_exp.text import without_credentials

_LONGEST = 1 << 20  # bytes of a response


def ask(address: str, endpoint: str, values: Mapping[str, str], timeout: float) -> dict[str, Any]:
    """Return a server's response to a request of MLflow's REST API.

    Args:
        address: The server's address, perhaps with credentials.
        endpoint: The API endpoint, such as `experiments/get-by-name`.
        values: The parameters of the request.
        timeout: Seconds to wait for each part of the response.

    Raises:
        OSError: There is no response (`URLError`), or its status reports an error (`HTTPError`).
        ValueError: The response is not HTTP, or not a JSON object.
    """
    bare = without_credentials(address).rstrip("/")
    url = f"{_endpoint(address, endpoint)}?{urllib.parse.urlencode(values)}"
    try:
        with open_url(urllib.request.Request(url, headers=_authorization(address)), timeout) as answer:
            found = json.loads(answer.read(_LONGEST))
    except HTTPException as error:
        raise ValueError(f"{bare}: the response is not HTTP, or incomplete") from error
    if not isinstance(found, dict):
        raise ValueError(f"{bare}: the response did not come from MLflow")
    return found


def post(address: str, endpoint: str, values: Mapping[str, str], timeout: float) -> None:
    """Send a change to MLflow's REST API. Takes the same arguments as `ask`, and raises the same `OSError`s."""
    headers = {**_authorization(address), "Content-Type": "application/json"}
    body = json.dumps(values).encode()
    request = urllib.request.Request(_endpoint(address, endpoint), body, headers, method="POST")
    with open_url(request, timeout):
        pass


def _endpoint(address: str, endpoint: str) -> str:
    return f"{without_credentials(address).rstrip('/')}/api/2.0/mlflow/{endpoint}"


def open_url(url: str | urllib.request.Request, timeout: float) -> Any:
    """Open a URL with the TLS settings of MLflow's client; addresses of this machine bypass any proxy."""
    host = urllib.parse.urlsplit(url if isinstance(url, str) else url.full_url).hostname or ""
    own = host == "localhost" or _is_own_address(host)
    handlers: list[urllib.request.BaseHandler] = [_SameHost(), urllib.request.HTTPSHandler(context=_tls())]
    if own:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers).open(url, timeout=timeout)


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects on the same host only, as they carry the credentials."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new.hostname != old.hostname or new.scheme not in (old.scheme, "https"):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _tls() -> ssl.SSLContext:
    """Return a TLS context configured by the environment variables that MLflow's client reads."""
    bundle = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or os.environ.get("REQUESTS_CA_BUNDLE")
    if os.path.isdir(bundle or ""):
        context = ssl.create_default_context(capath=bundle)
    else:
        context = ssl.create_default_context(cafile=bundle or None)
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if client := os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        context.load_cert_chain(client)
    return context


def _is_own_address(host: str) -> bool:
    """Return whether a host is a loopback address, or the unspecified address (`0.0.0.0` or `::`)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _authorization(address: str) -> dict[str, str]:
    """Return the authorization header, with credentials from the address or MLflow's environment variables."""
    parts = urllib.parse.urlsplit(address)
    name = urllib.parse.unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = urllib.parse.unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if name or password:
        encoded = base64.b64encode(f"{name or ''}:{password or ''}".encode()).decode()
        return {"Authorization": f"Basic {encoded}"}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
