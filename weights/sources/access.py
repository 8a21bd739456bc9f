"""What tells one remote LoRA from another, and who asks for it: the two halves of a key in a cache, without secrets."""

import hashlib
import json
from dataclasses import asdict, dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from weights.grammar.records import CivitaiLora, HubLora, Link, Remote, ReplicateLora
from weights.network.network import Tokens

NOBODY = ""  # who asks without a token or a signature
# What the clouds' signed URLs add: Amazon's, Google's, Alibaba's, Volcengine's, Huawei's and Tencent's names
SIGNING_PREFIXES = (
    *("x-amz-", "x-goog-", "x-oss-", "x-tos-", "x-obs-", "x-cos-"),
    *("q-sign", "q-ak", "q-key-time", "q-header-list", "q-url-param-list"),
)
CHANGING = "-process"  # with one of these prefixes: what the cloud makes of the file
SIGNING = frozenset({"signature", "expires", "key-pair-id", "policy", "security-token"})
SIGNING |= {"accesskeyid", "awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "token", "access_token", "api_key"}
AZURE_MARK = "sig"
AZURE = frozenset({"sig", "sv", "ss", "srt", "sr", "sp", "st", "se", "spr", "sip", "skoid", "sktid", "skt", "ske"})
AZURE_MORE = frozenset({"sks", "skv"})


@dataclass(frozen=True, slots=True)
class Access:
    """A remote LoRA and who asks for it."""

    key: str  # in hexadecimal: the same for everybody, whatever their token or their signature
    by: str  # in hexadecimal: what they show, hashed; NOBODY without


def access_to(record: Remote, tokens: Tokens) -> Access:
    """The two halves of the key of a record."""
    if isinstance(record, Link):
        url, shown = _split_signature(record.url)
        return Access(_hash({"kind": "Link", "url": url}), _hash(shown) if shown else NOBODY)
    named = {name: value for name, value in asdict(record).items() if name != "token"}
    token = token_for(record, tokens)
    return Access(_hash({"kind": type(record).__name__} | named), _hash(token) if token else NOBODY)


def token_for(record: Remote, tokens: Tokens) -> str:
    """The token of the service that has a record; none for a link, wherever it leads."""
    if isinstance(record, HubLora):
        return tokens.hugging_face.strip()
    if isinstance(record, CivitaiLora):
        return (tokens.civitai or record.token).strip()
    return tokens.replicate.strip() if isinstance(record, ReplicateLora) else ""


def _split_signature(url: str) -> tuple[str, list[tuple[str, str]]]:
    """A URL without what signs it, and that part."""
    split = urlsplit(url)
    query = parse_qsl(split.query, keep_blank_values=True)
    azure = AZURE | AZURE_MORE if any(name.lower() == AZURE_MARK for name, _ in query) else frozenset()
    signing = [pair for pair in query if _signs(pair[0].lower(), azure)]
    kept = [pair for pair in query if pair not in signing]
    return urlunsplit((split.scheme, split.netloc.lower(), split.path, urlencode(kept), "")), signing


def _signs(name: str, azure: frozenset[str]) -> bool:
    prefixed = name.startswith(SIGNING_PREFIXES) and not name.endswith(CHANGING)
    return name in SIGNING or name in azure or prefixed


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
