"""The files of a job come as data URIs, from https URLs, or lie on the volume."""

from dataclasses import replace
from pathlib import Path

import pytest

from deploy.runpod import files
from deploy.runpod.files import received
from tests.loopback import QuietHandler, http_server, served_file
from tests.tiny import assert_one_sentence
from weights.network.network import Network


def network(url):
    """A network in which this server counts as a public one."""
    return replace(Network(), trusted=frozenset({url}))


def test_a_data_uri_becomes_a_file_with_the_suffix_of_its_type(tmp_path):
    path = Path(received("image", "data:image/png;base64,aGk=", into=tmp_path))
    assert (path.name, path.read_bytes()) == ("image.png", b"hi")


def test_a_file_at_a_url_is_downloaded(tmp_path):
    with served_file(b"a zip") as url:
        path = received("input_images", url, into=tmp_path, network=network(url.partition("/files")[0]))
    assert Path(path).read_bytes() == b"a zip"


@pytest.mark.parametrize("value", ["/runpod-volume/photos.zip", "latest", "hf://me/my-lora", " x "])
def test_another_value_stays_as_it_is(tmp_path, value):
    assert received("resume_from", value, into=tmp_path) == value


@pytest.mark.parametrize(
    ("value", "fragment"),
    [
        ("data:image/png;base64,%%%", "image is a damaged data URI"),
        ("data:image/png,hi", "image is a data URI without base64"),
        ("http://example.com/a.png", "image leads to http://example.com: expected https"),
        ("https://169.254.169.254/latest/meta-data", "image leads to the host 169.254.169.254, which is not allowed"),
        ("https://localhost/a.png", "image leads to the host localhost, which is not allowed"),
    ],
)
def test_a_file_that_cannot_be_had_is_refused_with_its_input(tmp_path, value, fragment):
    with pytest.raises(ValueError) as error:
        received("image", value, into=tmp_path)
    assert_one_sentence(error.value, fragment, "expected")


def test_a_web_page_instead_of_the_file_is_refused(tmp_path):
    """As the links of many services for sharing files lead to."""

    class Page(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - http.server's name
            self.respond(b"<html>", media_type="text/html")

    with (
        http_server(Page) as url,
        pytest.raises(ValueError, match=r"input_images is not a file: \S+ sent a web page"),
    ):
        received("input_images", f"{url}/photos.zip", into=tmp_path, network=network(url))


def test_a_file_that_is_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SPARE_BYTES", 2**60)
    with served_file(b"a zip") as url, pytest.raises(OSError) as error:
        received("input_images", url, into=tmp_path, network=network(url.partition("/files")[0]))
    assert_one_sentence(error.value, "input_images needs 0 MB", "expected a larger container disk")
