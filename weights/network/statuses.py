"""What the status codes of HTTP mean here: fine, refused for good, or worth another attempt. Reads no body."""

from weights.network.client import Answer
from weights.network.failures import NotFound, TransientFailure

UNAUTHORIZED, FORBIDDEN, NOT_FOUND, GONE = 401, 403, 404, 410
PASSING = frozenset({408, 429})  # the server is slow, or asks for patience
SERVER_ERRORS = 500


def check_status(answer: Answer, *, fine: frozenset[int], token_given: bool) -> None:
    """Raise what a status that is not fine means: ValueError, NotFound, or TransientFailure. Repeats nothing of the body."""
    status, host = answer.status, answer.host
    if status in fine:
        return
    if status in {UNAUTHORIZED, FORBIDDEN}:
        raise ValueError(_closed(host, status, token_given=token_given))
    if status in {NOT_FOUND, GONE}:
        raise NotFound(f"was not found: {host} answered {status}")
    if status in PASSING or status >= SERVER_ERRORS:
        raise TransientFailure(f"could not be fetched: {host} answered {status}", pause=_pause(answer))
    raise ValueError(f"was refused: {host} answered {status}")


def _closed(host: str, status: int, *, token_given: bool) -> str:
    if token_given:
        return (
            f"is closed to this token: {host} answered {status}; expected a token that may read it, "
            "from someone who has accepted its licence"
        )
    why = "it is private, gated by a licence, not there, or its link has expired"
    return f"needs a token: {host} answered {status}; {why}"


def _pause(answer: Answer) -> float | None:
    """The seconds that a server asks for; its other form, a date, is not read."""
    asked = answer.header("Retry-After").strip()
    return float(asked) if asked.isascii() and asked.isdigit() else None
