"""The cache key of a remote LoRA and the identity of who requests it, both without secrets."""

import hashlib
import json
from dataclasses import asdict, dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from weights.grammar.records import CivitaiLora, HubLora, Link, Remote, ReplicateLora
from weights.network.network import Tokens

ANONYMOUS = ""  # the credential of a request without a token or a signature
# Query parameters of signed URLs: those of Amazon, Google, Alibaba, Volcengine, Huawei and Tencent
SIGNING_PREFIXES = (
    *("x-amz-", "x-goog-", "x-oss-", "x-tos-", "x-obs-", "x-cos-"),
    *("q-sign", "q-ak", "q-key-time", "q-header-list", "q-url-param-list"),
)
PROCESSING = "-process"  # with one of these prefixes: selects how the cloud converts the file, so it is part of the key
SIGNING = frozenset({"signature", "expires", "key-pair-id", "policy", "security-token"})
SIGNING |= {"accesskeyid", "awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "token", "access_token", "api_key"}
AZURE_MARK = "sig"
AZURE = frozenset({"sig", "sv", "ss", "srt", "sr", "sp", "st", "se", "spr", "sip", "skoid", "sktid", "skt", "ske"})
AZURE_MORE = frozenset({"sks", "skv"})


@dataclass(frozen=True, slots=True)
class Access:
    """A remote LoRA and the credential with which it is requested."""

    key: str  # in hexadecimal; does not depend on the token or the signature
    credential: str  # a hash of the token or signature, in hexadecimal, or ANONYMOUS


def access_to(record: Remote, tokens: Tokens) -> Access:
    """Return the cache key of a record and a hash of the token or signature that belongs to it."""
    if isinstance(record, Link):
        url, credentials = _split_signature(record.url)
        return Access(_hash({"kind": "Link", "url": url}), _hash(credentials) if credentials else ANONYMOUS)
    fields = {name: value for name, value in asdict(record).items() if name != "token"}
    token = token_for(record, tokens)
    return Access(_hash({"kind": type(record).__name__} | fields), _hash(token) if token else ANONYMOUS)


def token_for(record: Remote, tokens: Tokens) -> str:
    """Return the token of the service that hosts a record; an empty string for a link, whatever its host."""
    if isinstance(record, HubLora):
        return tokens.hugging_face.strip()
    if isinstance(record, CivitaiLora):
        return (tokens.civitai or record.token).strip()
    return tokens.replicate.strip() if isinstance(record, ReplicateLora) else ""


def _split_signature(url: str) -> tuple[str, list[tuple[str, str]]]:
    """Split a URL into the URL without its signature, and the query parameters of the signature."""
    split = urlsplit(url)
    query = parse_qsl(split.query, keep_blank_values=True)
    azure = AZURE | AZURE_MORE if any(name.lower() == AZURE_MARK for name, _ in query) else frozenset()
    signing = [pair for pair in query if _is_signing(pair[0].lower(), azure)]
    rest = [pair for pair in query if pair not in signing]
    return urlunsplit((split.scheme, split.netloc.lower(), split.path, urlencode(rest), "")), signing


def _is_signing(name: str, azure: frozenset[str]) -> bool:
    prefixed = name.startswith(SIGNING_PREFIXES) and not name.endswith(PROCESSING)
    return name in SIGNING or name in azure or prefixed


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
