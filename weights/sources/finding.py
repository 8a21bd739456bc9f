"""Find the file to which a record refers at the moment, on any service. Knows no cache."""

from weights.grammar.records import CivitaiLora, HubLora, Link, Remote, ReplicateLora, UnqualifiedLora
from weights.network.client import HttpRequest
from weights.network.download import RemoteFile
from weights.network.network import Network, Tokens
from weights.sources.access import token_for
from weights.sources.civitai import find_on_civitai
from weights.sources.hub import find_on_hub

KnownSource = HubLora | CivitaiLora | ReplicateLora | Link


def possible_sources(record: Remote) -> tuple[KnownSource, ...]:
    """Return what a record can refer to, in the order to try: owner/name is on Replicate, else on Hugging Face."""
    if isinstance(record, UnqualifiedLora):
        return (ReplicateLora(record.owner, record.name), HubLora(f"{record.owner}/{record.name}"))
    return (record,)


def find_file(record: KnownSource, tokens: Tokens, network: Network) -> RemoteFile:
    """Return the file of a record.

    Raises ValueError (also its subclass NotFound). The messages complete a sentence that starts with the reference.
    """
    token = token_for(record, tokens)
    if isinstance(record, HubLora):
        return find_on_hub(record, token, network)
    if isinstance(record, CivitaiLora):
        return find_on_civitai(record, token, network)
    if isinstance(record, ReplicateLora):
        return RemoteFile(HttpRequest(_weights_url(record, network), token=token))
    return RemoteFile(HttpRequest(record.url))


def _weights_url(lora: ReplicateLora, network: Network) -> str:
    """Return the URL that Replicate redirects to the tar of a trained model. Its own trainers use this URL too."""
    version = f"/versions/{lora.version}" if lora.version else ""
    return f"{network.replicate}/{lora.owner}/{lora.name}{version}/_weights"
