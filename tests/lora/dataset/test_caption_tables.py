"""Caption tables are read as users and spreadsheets write them, and refused if they are ambiguous."""

import json

import pytest

from lora.dataset import caption_records
from lora.dataset.caption_records import Row
from lora.dataset.caption_tables import is_table, read_table
from lora.dataset.image_names import ImageNames
from tests.tiny import assert_one_sentence

A, B = Row("a.png", "a dog"), Row("b.png", "a cat, asleep")


def rows(name, text, *, images=()):
    return read_table(name, text, ImageNames.of(images))


def refusal(name, text, *, images=()):
    with pytest.raises(ValueError) as error:
        rows(name, text, images=images)
    assert_one_sentence(error.value)
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
        ("captions.json", '{"a.png": {"size": 5}}', "found 'file_name', 'size': expected file_name and text"),
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
    monkeypatch.setattr(caption_records, "MAX_LETTERS", 5)
    assert "the caption of 'a.png' has 10 characters: expected at most 5" in refusal(name, text)


@pytest.mark.parametrize("name", ["metadata.csv", "captions.csv"])
def test_a_table_without_a_caption_column_is_refused(name):
    """Otherwise its numbers would be used as captions."""
    found = refusal(name, "file_name,width,height\na.png,200,160\n")
    assert "its columns are 'file_name', 'width', 'height': expected one of text" in found


IMAGES = ("0.jpg", "1.jpg", "2.jpg")
CAPTIONS = ("a dog, red", "a cat, blue", "a fox")


@pytest.mark.parametrize(
    ("heading", "row"),
    [
        ("id,image_path,caption", "{0},{0}.jpg,{1}"),
        ("id,image_path,caption", "{2},{0}.jpg,{1}"),
        ("nr;Datei;Caption", "{2};x\\{0}.jpg;{1}"),
        ("id\tcogvlm_caption\ttags", "{0}\t{1}\tdog"),
        ("image,control_image,caption", "{0}.jpg,{3}.jpg,{1}"),
        ("caption|path", "{1}|C:\\me\\{0}"),
        ("", "{0}.jpg,{1}"),
        ("", '"{1}",{0}.jpg'),
        ("sep=;\nfile_name;text", "{0}.jpg;{1}"),
    ],
)
def test_the_column_of_names_is_the_one_whose_values_are_names_of_images(heading, row):
    """A number may be the name of another image without its suffix."""
    lines = [row.format(index, text, index + 1, (index + 1) % 3) for index, text in enumerate(CAPTIONS)]
    found = rows("captions.csv", "\n".join([heading, *lines]), images=IMAGES)
    assert [row.text for row in found] == list(CAPTIONS)
    assert [row.file_name.rpartition("\\")[2].removesuffix(".jpg") for row in found] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "id,path,caption\n1,0,a\n2,1,b",
            "'id', 'path' each name images, and different ones: expected one such column",
        ),
        ("file_name,image,caption\n0.jpg,1.jpg,a", "'file_name', 'image' each name images"),
        ("image,caption_long,caption_short\n0.jpg,a,b", "'caption_long', 'caption_short' may each hold the captions"),
        ("nr,bild,text über das bild\n5,0.jpg,a dog", "column 2 names the images, and which holds the captions is not"),
        ("0.jpg,512,a dog\n1.jpg,512,a cat", "column 2 holds only numbers: expected a first row with the names"),
        ("0.jpg,512\n1.jpg,768", "column 2 holds only numbers"),
    ],
)
def test_a_table_is_refused_if_it_is_not_unique_what_its_columns_hold(text, found):
    assert found in refusal("captions.csv", text, images=IMAGES)


@pytest.mark.parametrize(
    "content",
    [
        {"0": {"caption": "a dog"}, "1": {"caption": "a cat", "tags": "cat"}},
        {"/d/0.jpg": {"tags": "a dog", "image_size": [1, 2]}, "/d/1.jpg": {"tags": ["a cat"]}},
        {"5": {"image": "0.jpg", "caption": "a dog"}, "6": {"image": "1.jpg", "caption": "a cat"}},
        {"version": 1, "data": [{"id": 0, "caption": "a dog"}, {"id": 1, "caption": "a cat"}]},
        {
            "images": [{"id": 7, "file_name": "0.jpg"}, {"id": 8, "file_name": "1.jpg"}],
            "annotations": [{"image_id": 7, "caption": "a dog"}, {"image_id": 8, "caption": "a cat"}],
        },
    ],
    ids=["sd-scripts", "sd-scripts tags", "by number", "in an object", "COCO"],
)
def test_json_of_other_tools_is_read(content):
    found = rows("captions.json", json.dumps(content), images=IMAGES)
    assert [(row.file_name.removeprefix("/d/").removesuffix(".jpg"), row.text) for row in found] == [
        ("0", "a dog"),
        ("1", "a cat"),
    ]


def test_json_lines_and_a_json_list_are_told_apart_by_their_content():
    records = [json.dumps({"file_name": row.file_name, "text": row.text}) for row in (A, B)]
    assert rows("metadata.json", "\n".join(records)) == [A, B]
    assert rows("metadata.jsonl", f"[{', '.join(records)}]") == [A, B]


def test_captions_by_name_are_no_record_although_their_names_are_known_keys():
    content = {"image": "a dog", "text": "a cat"}
    found = rows("captions.json", json.dumps(content), images=("image.jpg", "text.jpg"))
    assert found == [Row("image", "a dog"), Row("text", "a cat")]
