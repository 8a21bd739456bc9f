"""From a record to the file that it now means, whichever service has it. Knows no cache."""

from weights.grammar.records import CivitaiLora, HubLora, Link, Remote, ReplicateLora, UnqualifiedLora
from weights.network.client import Question
from weights.network.download import Wanted
from weights.network.network import Network, Tokens
from weights.sources.access import token_for
from weights.sources.civitai import find_on_civitai
from weights.sources.hub import find_on_hub

Found = HubLora | CivitaiLora | ReplicateLora | Link


def readings(record: Remote) -> tuple[Found, ...]:
    """What a record can mean, in the order to try: owner/name is Replicate's, and Hugging Face's if it has none."""
    if isinstance(record, UnqualifiedLora):
        return (ReplicateLora(record.owner, record.name), HubLora(f"{record.owner}/{record.name}"))
    return (record,)


def find(record: Found, tokens: Tokens, network: Network) -> Wanted:
    """The file of a record; raises ValueError with the end of a sentence, NotFound among them."""
    token = token_for(record, tokens)
    if isinstance(record, HubLora):
        return find_on_hub(record, token, network)
    if isinstance(record, CivitaiLora):
        return find_on_civitai(record, token, network)
    if isinstance(record, ReplicateLora):
        return Wanted(Question(_weights(record, network), token=token))
    return Wanted(Question(record.url))


def _weights(lora: ReplicateLora, network: Network) -> str:
    """Where Replicate redirects to a trained model's tar; its own trainers use the same address."""
    version = f"/versions/{lora.version}" if lora.version else ""
    return f"{network.replicate}/{lora.owner}/{lora.name}{version}/_weights"
