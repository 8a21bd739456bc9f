"""The meaning of HTTP status codes: accepted, refused, or worth a retry. Reads no body."""

from weights.network.client import HttpResponse
from weights.network.failures import AccessDenied, NotFound, TransientFailure

UNAUTHORIZED, FORBIDDEN, NOT_FOUND, GONE = 401, 403, 404, 410
TRANSIENT = frozenset({408, 429})  # request timeout, too many requests
SERVER_ERRORS = 500


def check_status(response: HttpResponse, *, accepted: frozenset[int], token_given: bool, token_input: str = "") -> None:
    """Raise ValueError, AccessDenied, NotFound or TransientFailure for a status that is not accepted.

    `token_input` is the input that holds a token for this service. The messages repeat nothing of the body.
    """
    status, host = response.status, response.host
    if status in accepted:
        return
    if status in {UNAUTHORIZED, FORBIDDEN}:
        raise AccessDenied(_access_denied(host, status, token_given=token_given, token_input=token_input))
    if status in {NOT_FOUND, GONE}:
        raise NotFound(f"was not found: {host} returned {status}")
    if status in TRANSIENT or status >= SERVER_ERRORS:
        raise TransientFailure(f"could not be downloaded: {host} returned {status}", retry_after=_retry_after(response))
    raise ValueError(f"was refused: {host} returned {status}")


def _access_denied(host: str, status: int, *, token_given: bool, token_input: str) -> str:
    where = f" in {token_input}" if token_input else ""
    if token_given:
        return (
            f"is not accessible with this token: {host} returned {status}; expected a token with read access{where}, "
            "from someone who has accepted its licence"
        )
    why = "it is private, gated by a licence or missing, or its link has expired"
    return f"needs a token{where}: {host} returned {status}; {why}"


def _retry_after(response: HttpResponse) -> float | None:
    """Return the delay in seconds that the server requests. The other form of Retry-After, a date, is ignored."""
    value = response.header("Retry-After").strip()
    return float(value) if value.isascii() and value.isdigit() else None
