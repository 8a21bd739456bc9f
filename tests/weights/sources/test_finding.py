"""From a record to the file to which it refers at the moment."""

from weights.grammar.records import CivitaiLora, HubLora, Link, ReplicateLora, UnqualifiedLora
from weights.network.network import Network, Tokens
from weights.sources.finding import find_file, possible_sources

TOKENS = Tokens(hugging_face="h", civitai="c", replicate="r")


def test_owner_and_name_can_be_on_replicate_or_else_on_hugging_face():
    assert possible_sources(UnqualifiedLora("o", "r")) == (ReplicateLora("o", "r"), HubLora("o/r"))


def test_every_other_record_has_one_source():
    for record in (HubLora("o/r"), ReplicateLora("o", "r"), CivitaiLora(1), Link("https://h.example/x")):
        assert possible_sources(record) == (record,)


def test_the_weights_on_replicate_have_the_url_that_its_trainers_use():
    newest = find_file(ReplicateLora("o", "r"), TOKENS, Network())
    version = find_file(ReplicateLora("o", "r", "abc"), TOKENS, Network())
    assert newest.request.url == "https://replicate.com/o/r/_weights"
    assert version.request.url == "https://replicate.com/o/r/versions/abc/_weights"
    assert newest.request.token == "r"


def test_a_link_is_requested_unchanged_and_without_a_token():
    remote_file = find_file(Link("https://h.example/x.tar?Signature=a"), TOKENS, Network())
    assert remote_file.request.url == "https://h.example/x.tar?Signature=a"
    assert remote_file.request.token == ""
