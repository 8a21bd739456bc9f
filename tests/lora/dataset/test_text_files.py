"""Text is decoded in any common encoding, and other content is refused."""
# ruff: noqa: RUF001 -- the tests need letters of other alphabets that look like Latin ones

import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.dataset.text_files import decode_text
from tests.tiny import encoded, noisy_image

CAPTION = "a café, 犬 and 🦊\nin Łódź"
IMAGE = noisy_image()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_unicode_encoding_is_decoded(encoding):
    """A56."""
    text = decode_text(CAPTION.encode(encoding))
    assert text.content == CAPTION
    assert text.encoding == encoding.removesuffix("-sig")


@pytest.mark.parametrize(("mark", "encoding"), [(codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_BE, "utf-32-be")])
def test_a_byte_order_mark_sets_the_byte_order(mark, encoding):
    assert decode_text(mark + CAPTION.encode(encoding)).content == CAPTION


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("caption", ["a dog", "un café à l’été", "a", "Ānanda"])
def test_utf_16_is_detected_without_a_mark(encoding, caption):
    assert decode_text(caption.encode(encoding)).content == caption


def test_byte_order_marks_are_removed_everywhere():
    """Two concatenated files have a mark in the middle."""
    assert decode_text("\ufeff\ufeffa\n\ufeffb".encode()).content == "a\nb"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_are_normalized(end):
    assert decode_text(f"a dog{end}on a mat{end}".encode()).content == "a dog\non a mat\n"


@pytest.mark.parametrize(
    ("encoding", "caption"),
    [
        ("cp1252", "un chien à l’été, “très” près de la plage"),
        ("cp1252", "ein Mädchen auf der Straße"),
        ("cp1251", "собака сидит на берегу моря и смотрит на солнце"),
        ("cp1253", "ένας σκύλος κάθεται στην παραλία"),
        ("cp1256", "كلب يجلس على شاطئ البحر"),
        ("cp932", "白い砂浜に座っている犬、青い空"),
        ("cp932", "カメラを持つ女性"),
        ("gb18030", "一个女孩坐在公园的长椅上看书，背景是樱花树"),
        ("big5", "一個女孩坐在公園的長椅上看書，背景是櫻花樹"),
        ("cp949", "소녀가 공원 벤치에 앉아 책을 읽고 있다"),
    ],
)
def test_an_older_encoding_is_guessed(encoding, caption):
    text = decode_text(caption.encode(encoding))
    assert text.content == caption
    assert text.encoding == encoding


@pytest.mark.parametrize(
    "caption", ["👩\u200d👩\u200d👧", "می\u200cخواهم", "\u200fשלום", "🏴\U000e0067\U000e007f", "\U0001fae8", "\ue000"]
)
def test_joiners_direction_marks_and_new_emoji_are_text(caption):
    assert decode_text(caption.encode()).content == caption


def test_an_empty_file_is_empty_text():
    assert decode_text(b"").content == ""


@pytest.mark.parametrize(
    "content",
    [
        encoded(IMAGE),
        encoded(IMAGE, "JPEG"),
        encoded(IMAGE, "WEBP"),
        bytes(100),
        bytes(range(256)) * 4,
        b"\x00\x01\x02" * 50,
        b"\x01\x02\x03" * 50,
        b"a dog\0",
        b"a photo of a dog, " * 9 + b"\0",
        codecs.BOM_UTF16_LE + b"odd",
        codecs.BOM_UTF32_LE + b"\xff" * 8,
    ],
    ids=range(11),
)
def test_content_that_is_not_text_is_refused(content):
    with pytest.raises(ValueError, match="it is not text"):
        decode_text(content)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=80))
def test_any_bytes_are_decoded_or_refused(content):
    try:
        text = decode_text(content).content
    except ValueError as error:
        assert str(error) == "it is not text"
    else:
        assert not set(text) & {"\0", "\r", "\ufeff"}
        assert text.encode().decode() == text
