"""Fetch a small JSON response of an API. Knows no service."""

import json
import time
from typing import Any

from weights.network.client import HttpRequest, HttpResponse, send_request
from weights.network.failures import Patience, TransientFailure, retry
from weights.network.network import Network
from weights.network.statuses import check_status

MAX_BYTES = 16 * 2**20
CHUNK_BYTES = 2**16
OK = frozenset({200})


def fetch_json(request: HttpRequest, network: Network) -> dict[str, Any]:
    """Return the JSON object that an API responds with.

    Raises ValueError (also its subclass NotFound) with a message that completes a sentence that starts with the
    reference.
    """
    patience = Patience(network.timeouts)
    return retry(lambda attempt: _attempt(request, patience.limited(network), attempt), network.timeouts, patience)


def _attempt(request: HttpRequest, network: Network, attempt: int) -> dict[str, Any]:
    with send_request(request, network, attempt=attempt) as response:
        check_status(response, accepted=OK, token_given=bool(request.token), token_input=request.token_input)
        content = _read_body(response, deadline=time.monotonic() + network.timeouts.speed_window)
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            found_other = f"cannot be looked up: the response of {response.host} is not JSON"
            raise TransientFailure(found_other, max_retries=1) from error
        if not isinstance(found, dict):
            raise ValueError(f"cannot be looked up: the response of {response.host} is JSON in an unexpected form")
        return found


def _read_body(response: HttpResponse, *, deadline: float) -> bytes:
    content = bytearray()
    while chunk := response.read(CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_BYTES:
            raise ValueError(f"cannot be looked up: {response.host} sent more than {MAX_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise ValueError(f"cannot be looked up: {response.host} is too slow")
    return bytes(content)
