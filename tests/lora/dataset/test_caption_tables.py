"""Caption tables are read as users and spreadsheets write them, and refused if they are ambiguous."""

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
def test_a_table_is_recognized_by_its_name(name):
    assert is_table(name)


@pytest.mark.parametrize("name", ["captions.txt", "my_captions.csv", "captions", "a.json", "captions.json/a.png"])
def test_other_names_are_not_tables(name):
    assert not is_table(name)


def test_the_metadata_of_a_photo_service_is_not_a_table():
    """Each album contains a metadata.json without captions."""
    assert not is_table("Takeout/Photos/Holiday/metadata.json")


@pytest.mark.parametrize("keys", [("file_name", "text"), ("image", "caption"), ("path", "prompt")])
def test_each_line_of_a_jsonl_file_is_a_record(keys):
    records = [dict(zip(keys, (row.file_name, row.text), strict=True)) for row in (A, B)]
    text = "\n\n".join(json.dumps(record | {"width": 512}) for record in records) + "\n"
    assert rows("metadata.jsonl", text) == [A, B]


def test_a_jsonl_record_ends_at_a_line_feed_only():
    """Other line separators are allowed in JSON text, and do not end the line."""
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
def test_a_json_file_maps_names_to_captions_or_lists_records(content):
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
def test_common_forms_of_csv_files_are_read(text):
    """With or without header, quotes and index; with the delimiters that Excel uses in different locales."""
    assert rows("captions.csv", text) == [A, B]


def test_a_caption_in_a_csv_file_can_contain_quotes_and_line_breaks():
    text = 'file_name,text\na.png,a 12" ruler\nb.png,"a ""cat""\non a mat"\nc.png,"TOK" at sea\nd.png,"TOK\n"'
    assert [row.text for row in rows("captions.csv", text)] == [
        'a 12" ruler',
        'a "cat"\non a mat',
        "TOK at sea",
        "TOK\n",
    ]


def test_delimiters_in_quotes_are_ignored():
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
def test_empty_captions_are_skipped(name, text):
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
        ("captions.json", '{"a.png": "a", "b.png": "b", "a.png": "c"}', "'a.png' is there twice"),
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
def test_an_ambiguous_or_invalid_table_is_refused(name, text, found):
    assert found in refusal(name, text)


@pytest.mark.parametrize(
    ("name", "text"), [("captions.json", '{"a.png": "a long dog"}'), ("captions.csv", "a.png,a long dog")]
)
def test_the_length_of_a_caption_is_limited(name, text, monkeypatch):
    monkeypatch.setattr(caption_tables, "MAX_LETTERS", 5)
    assert "the caption of 'a.png' has 10 characters: expected at most 5" in refusal(name, text)


@pytest.mark.parametrize("name", ["metadata.csv", "captions.csv"])
def test_a_table_without_a_caption_column_is_refused(name):
    """Otherwise its numbers would be used as captions."""
    with pytest.raises(ContentError, match="its columns are 'file_name', 'width', 'height': expected one of text"):
        list(read_table(name, "file_name,width,height\na.png,200,160\n"))
