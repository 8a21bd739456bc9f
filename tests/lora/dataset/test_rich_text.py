"""Rich Text Format is converted to plain text."""

import pytest

from lora.dataset.rich_text import is_rich_text, plain_text

TEXT_EDIT = r"""{\rtf1\ansi\ansicpg1252\cocoartf2580
{\fonttbl\f0\fswiss\fcharset0 Helvetica;}
{\colortbl;\red255\green255\blue255;}
{\*\expandedcolortbl;;}
\paperw11900\margl1440\pard\tx566
\f0\fs24 \cf0 a photo of \b TOK\b0 , in a caf\'e9\
with \{friends\} and Jos\uc0\u233 \u-10179 \u-8704 }"""


@pytest.mark.parametrize(
    ("rich", "plain"),
    [
        (TEXT_EDIT, "a photo of TOK, in a café\nwith {friends} and José😀"),
        (r"{\rtf1 a\par b\line c\tab d\~e}", "a\nb\nc d e"),
        (r"{\rtf1 it\rquote s {\pict 0102}a \u8364?5}", "it\u2019s a €5"),
        (r"{\rtf1\ansicpg932 \'8c\'a2}", "犬"),
        (r"{\rtf1\ansicpg99999 \'e9}", "é"),
        (r"{\rtf1\uc0 a}}} b{\*\unknown c} d", "a b d"),
        (r"{\rtf1", ""),
    ],
)
def test_only_the_text_of_a_document_is_left(rich, plain):
    assert is_rich_text(rich)
    assert plain_text(rich) == plain


def test_other_text_is_not_rich_text():
    assert not is_rich_text("a dog in a {rtf1} shirt")
