"""A small JSON answer of a service's API. Knows no service."""

import json
import time
from typing import Any

from weights.network.client import Answer, Question, ask
from weights.network.failures import TransientFailure, retry
from weights.network.network import Network
from weights.network.statuses import check_status

MOST_BYTES = 16 * 2**20
PIECE = 2**16
OK = frozenset({200})


def fetch_json(question: Question, network: Network) -> dict[str, Any]:
    """The object that an API answers with.

    Raises ValueError with the end of a sentence, NotFound among them.
    """
    return retry(lambda attempt: _attempt(question, network, attempt), network.patience)


def _attempt(question: Question, network: Network, attempt: int) -> dict[str, Any]:
    with ask(question, network, attempt=attempt) as answer:
        check_status(answer, fine=OK, token_given=bool(question.token))
        content = _body(answer, until=time.monotonic() + network.patience.window)
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            found_other = f"cannot be looked up: {answer.host} answered with something that is no JSON"
            raise TransientFailure(found_other, most=1) from error
        if not isinstance(found, dict):
            raise ValueError(f"cannot be looked up: {answer.host} answered with JSON of another form")
        return found


def _body(answer: Answer, *, until: float) -> bytes:
    content = bytearray()
    while piece := answer.piece(PIECE):
        content += piece
        if len(content) > MOST_BYTES:
            raise ValueError(f"cannot be looked up: {answer.host} answered with more than {MOST_BYTES:,} bytes")
        if time.monotonic() > until:
            raise ValueError(f"cannot be looked up: {answer.host} is too slow")
    return bytes(content)
