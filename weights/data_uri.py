"""A file inside of a request, as a data URI (RFC 2397). Knows nothing of what is in it."""

import base64

SCHEME = "data:"
MAX_INLINE = 100 * 2**20  # characters; Cog's own limit for a request


def is_data_uri(text: str) -> bool:
    """Whether a text is meant as a data URI."""
    return text[: len(SCHEME)].lower() == SCHEME


def decode_data_uri(uri: str) -> bytes:
    """Return the content of a data URI in base64.

    Raises ValueError; the message completes a sentence that starts with the name of the input.
    """
    header, comma, payload = uri.partition(",")
    if len(payload) > MAX_INLINE:
        raise ValueError(f"is a data URI of {len(payload):,} characters: expected at most {MAX_INLINE:,}")
    if not comma or not header.lower().endswith(";base64"):
        raise ValueError("is a data URI without base64: expected data:...;base64,...")
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:
        raise ValueError(f"is a damaged data URI ({error}): expected data:...;base64,...") from error
