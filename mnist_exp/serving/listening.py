"""The address of a page that this process serves: a socket on a free port."""

from __future__ import annotations

import ipaddress
import socket

from mnist_exp.errors import RequestError

_PORTS = range(8400, 8500)  # tried in this order


def listen(host: str, port: int | None) -> socket.socket:
    """Return a socket bound to a port; None selects the first free one from 8400. Raises `RequestError`."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise RequestError(f"host={host}: not a name or address of this machine") from error
    for candidate in _PORTS if port is None else [port]:
        # asyncio switches Nagle's algorithm off, which delays answers by 40 ms, only if the protocol is named.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((place[0], candidate))
            listener.listen()
        except OSError as error:
            listener.close()
            problem = error
        else:
            return listener
    if problem.errno == 99:
        raise RequestError(f"host={host}: not a name or address of this machine")
    what = f"port={port}: cannot be used" if port else f"ports {_PORTS[0]} to {_PORTS[-1]}: none can be used"
    raise RequestError(f"{what} on {host} ({problem.strerror}); port=null selects a free port")


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def page_address(listener: socket.socket, token: str | None) -> str:
    """Return the address to open, with the token if the page needs one."""
    return f"http://{host_names(*listener.getsockname()[:2])[0]}/{f'{token}/' if token else ''}"


def host_names(place: str, port: int) -> tuple[str, ...]:
    """Return the values of the header `Host` that requests to a page have, the usual one first.

    Browsers leave out port 80. For a page on all addresses of the machine, only the name that the machine gives
    itself is known.

    Args:
        place: The IP address that the page's socket is bound to.
        port: Its port.
    """
    address = ipaddress.ip_address(place)
    name = f"[{place}]" if address.version == 6 else place
    if address.is_unspecified:
        name = socket.gethostname()
    names = (name, "localhost") if address.is_loopback else (name,)
    return tuple(f"{one}:{port}" for one in names) + (names if port == 80 else ())
