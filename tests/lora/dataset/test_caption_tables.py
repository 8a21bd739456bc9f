"""A table of captions is read as people and their spreadsheets make it, and refused where it would be guessed."""

import json

import pytest

from lora.dataset import caption_tables
from lora.dataset.caption_tables import Row, is_table, read_table
from lora.dataset.refusal import ContentError
from tests.tiny import assert_one_sentence

A, B = Row("a.png", "a dog"), Row("b.png", "a cat, asleep")


def rows(name, text):
    return list(read_table(name, text))


def refusal(name, text):
    with pytest.raises(ContentError) as error:
        rows(name, text)
    assert_one_sentence(error.value, f"holds {name!r}, which cannot be read as captions: ")
    assert len(str(error.value)) < 500
    str(error.value).encode()
    return str(error.value)


@pytest.mark.parametrize(
    "name",
    ["metadata.jsonl", "captions.json", "captions.csv", "x/y/Captions.CSV", "x\\metadata.csv", "metadata.tsv"],
)
def test_a_table_is_known_by_its_name(name):
    assert is_table(name)


@pytest.mark.parametrize("name", ["captions.txt", "my_captions.csv", "captions", "a.json", "captions.json/a.png"])
def test_other_names_are_no_tables(name):
    assert not is_table(name)


def test_an_album_of_a_photo_service_may_keep_its_metadata():
    """Each has a metadata.json, in which no caption is."""
    assert not is_table("Takeout/Photos/Holiday/metadata.json")


@pytest.mark.parametrize("keys", [("file_name", "text"), ("image", "caption"), ("path", "prompt")])
def test_lines_of_json_hold_a_record_each(keys):
    records = [dict(zip(keys, (row.file_name, row.text), strict=True)) for row in (A, B)]
    text = "\n\n".join(json.dumps(record | {"width": 512}) for record in records) + "\n"
    assert rows("metadata.jsonl", text) == [A, B]


def test_a_line_of_json_ends_where_the_line_ends():
    """And not at the other separators that JSON allows in text."""
    text = json.dumps({"file_name": "a.png", "text": "a\u2028b\u0085c"}, ensure_ascii=False)
    assert rows("metadata.jsonl", text) == [Row("a.png", "a\u2028b\u0085c")]


@pytest.mark.parametrize(
    "content",
    [
        {"a.png": "a dog", "b.png": "a cat, asleep"},
        {"a.png": {"caption": "a dog", "tags": "dog"}, "b.png": {"caption": "a cat, asleep"}},
        [{"file_name": "a.png", "text": "a dog"}, {"file": "b.png", "prompt": "a cat, asleep"}],
    ],
)
def test_a_json_file_holds_names_with_captions_or_records(content):
    """A64."""
    assert rows("captions.json", json.dumps(content)) == [A, B]


@pytest.mark.parametrize(
    "text",
    [
        'file_name,text\na.png,a dog\nb.png,"a cat, asleep"\n',
        "file_name,text\na.png,a dog\nb.png,a cat, asleep\n",
        "file_name;text\na.png;a dog\nb.png;a cat, asleep",
        '"file_name";"text"\n"a.png";"a dog"\n"b.png";"a cat, asleep"',
        "File Name\tCaption\na.png\ta dog\nb.png\ta cat, asleep",
        "a.png|a dog\nb.png|a cat, asleep",
        'a.png,a dog\nb.png,"a cat, asleep"',
        "\n\nfile_name,text\n\na.png,a dog\n,\nb.png,a cat, asleep\n\n",
        ",image,caption\n0,a.png,a dog\n1,b.png,a cat, asleep",
        'caption,image\na dog,a.png\n"a cat, asleep",b.png',
        "file_name,text\nc.png\na.png,a dog\nb.png,a cat, asleep\nd.png,",
    ],
)
def test_a_csv_file_is_read_as_people_write_it(text):
    """With or without headings, quotes and an index; separated as Excel does in some country."""
    assert rows("captions.csv", text) == [A, B]


def test_a_caption_in_a_csv_file_may_have_quotes_and_lines():
    text = 'file_name,text\na.png,a 12" ruler\nb.png,"a ""cat""\non a mat"\nc.png,"TOK" at sea\nd.png,"TOK\n"'
    assert [row.text for row in rows("captions.csv", text)] == [
        'a 12" ruler',
        'a "cat"\non a mat',
        "TOK at sea",
        "TOK\n",
    ]


def test_what_is_in_quotes_separates_nothing():
    assert rows("captions.csv", '"a, b.png";"a dog, asleep"') == [Row("a, b.png", "a dog, asleep")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": " "}\n{"file_name": "b.png", "text": null}'),
        ("captions.json", '{"a.png": "", "b.png": null}'),
        ("captions.csv", "file_name,text\na.png,\nb.png, \n"),
        ("captions.csv", "file_name,text"),
        ("captions.csv", ""),
    ],
)
def test_an_empty_caption_is_none(name, text):
    """A55."""
    assert rows(name, text) == []


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("captions.json", '{"a.png": 5}', "the caption of 'a.png' is 5: expected text"),
        ("captions.json", '{"a.png": ["a dog"]}', "the caption of 'a.png' is ['a dog']: expected text"),
        ("captions.json", '[{"file_name": 5, "text": "a dog"}]', "the caption of 5"),
        ("captions.json", '{"a.png": {"tags": "dog"}}', "found 'tags', 'file_name': expected file_name and text"),
        ("captions.json", '["a dog"]', "found 'a dog': expected {"),
        ("captions.json", "[{}]", "found nothing"),
        ("captions.json", '"a dog"', 'expected {"photo.jpg": "its caption"}'),
        ("captions.json", "{'a.png': 'a dog'}", "Expecting property name"),
        ("captions.json", '{"a.png": NaN}', "nan"),
        ("captions.json", '{"a.png": ' + "9" * 5000 + "}", "5000 digits"),
        ("captions.json", '{"a.png": "a", "b.png": "b", "a.png": "c"}', "'a.png' stands there twice"),
        ("captions.json", '[{"line\\nbreak": 1, "\\ud800": 2}]', "found 'line\\nbreak', '\\ud800'"),
        ("captions.json", json.dumps([{"x" * 9999: 1}]), "xxx…'"),
        ("captions.json", '{"a.png": ' + '{"a":' * 100_000, "recursion"),
        ("captions.json", "[" * 100_000, "recursion"),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "text": "a dog"}\n{"file_name": "b.png"}',
            "line 2: found 'file_name'",
        ),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "a dog"}\n{"file', "line 2: Unterminated string"),
        ("metadata.jsonl", "[" * 100_000, "line 1: maximum recursion"),
        ("captions.csv", "file_name,text,score\na.png,a dog, asleep,5", "row 2 has 4 columns: expected 3"),
        ("captions.csv", "a dog\na cat", "its first row is 'a dog': expected two columns"),
        ("captions.csv", 'file_name,text\na.png,"a dog\nb.png,a cat\n', "the row of 'a.png' opens a quotation mark"),
        ("captions.csv", "a.png,a " + "dog" * 50_000, "field larger than field limit"),
    ],
)
def test_a_table_that_would_be_guessed_at_is_refused(name, text, found):
    assert found in refusal(name, text)


@pytest.mark.parametrize(
    ("name", "text"), [("captions.json", '{"a.png": "a long dog"}'), ("captions.csv", "a.png,a long dog")]
)
def test_a_caption_has_a_longest(name, text, monkeypatch):
    monkeypatch.setattr(caption_tables, "MOST_LETTERS", 5)
    assert "the caption of 'a.png' has 10 letters: expected at most 5" in refusal(name, text)


@pytest.mark.parametrize("name", ["metadata.csv", "captions.csv"])
def test_a_table_of_something_else_is_no_table_of_captions(name):
    """Or its numbers would be trained as captions."""
    with pytest.raises(ContentError, match="its columns are 'file_name', 'width', 'height': expected one of text"):
        list(read_table(name, "file_name,width,height\na.png,200,160\n"))
