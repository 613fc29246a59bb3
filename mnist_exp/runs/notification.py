"""Report the end of a run, sweep or search to a command or an address.

Both are read only from the environment, never from a config or a run, as setting them is enough to run code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from mnist_exp.text import printable

COMMAND, ADDRESS = "MNIST_EXP_ON_END", "MNIST_EXP_WEBHOOK"
_SECONDS = 30.0
_SECONDS_IF_SIGNALLED = 3.0  # SIGKILL may follow SIGTERM


def notify(message: dict[str, Any], *, signalled: bool) -> None:
    """Run the command with the message as JSON on its standard input, and post it to the address.

    Failures are printed, and have no other effect.

    Args:
        message: The message.
        signalled: Whether a signal ended the work, so that little time may be left.
    """
    seconds = _SECONDS_IF_SIGNALLED if signalled else _SECONDS
    text = json.dumps(message, ensure_ascii=False)
    if command := os.environ.get(COMMAND):
        try:
            subprocess.run(command, shell=True, input=text, text=True, stdout=2, timeout=seconds, check=True)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            _report(COMMAND, _reason(error))
    if address := os.environ.get(ADDRESS):
        try:
            _post(address, text, seconds)
        except (OSError, ValueError, HTTPException) as error:
            _report(ADDRESS, _reason(error))


def _post(address: str, text: str, seconds: float) -> None:
    if not address.startswith(("http://", "https://")):
        raise ValueError("must be an http:// or https:// address")
    request = urllib.request.Request(address, text.encode(), {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=seconds):
        pass


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"exit status {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"did not finish within {error.timeout:g} s"
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    if isinstance(error, HTTPException):  # its message quotes the address
        return type(error).__name__
    return str(getattr(error, "reason", error))


def _report(variable: str, reason: str) -> None:
    print(f"warning: {variable}: {printable(reason)}", file=sys.stderr)
