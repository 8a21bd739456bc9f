"""From a record to the file that it means now."""

from weights.grammar.records import CivitaiLora, HubLora, Link, ReplicateLora, UnqualifiedLora
from weights.network.network import Network, Tokens
from weights.sources.finding import find, readings

TOKENS = Tokens(hugging_face="h", civitai="c", replicate="r")


def test_owner_and_name_are_read_as_replicates_first():
    assert readings(UnqualifiedLora("o", "r")) == (ReplicateLora("o", "r"), HubLora("o/r"))


def test_every_other_record_has_one_reading():
    for record in (HubLora("o/r"), ReplicateLora("o", "r"), CivitaiLora(1), Link("https://h.example/x")):
        assert readings(record) == (record,)


def test_replicates_weights_are_where_its_trainers_look_for_them():
    newest = find(ReplicateLora("o", "r"), TOKENS, Network())
    version = find(ReplicateLora("o", "r", "abc"), TOKENS, Network())
    assert newest.question.url == "https://replicate.com/o/r/_weights"
    assert version.question.url == "https://replicate.com/o/r/versions/abc/_weights"
    assert newest.question.token == "r"


def test_a_link_is_asked_for_whole_and_without_a_token():
    wanted = find(Link("https://h.example/x.tar?Signature=a"), TOKENS, Network())
    assert wanted.question.url == "https://h.example/x.tar?Signature=a"
    assert wanted.question.token == ""
