"""Caption files are found by their names, and files that cannot be read are reported by name."""

import json

import pytest

from lora.dataset import caption_files
from lora.dataset.archive import Skipped, unpack_archive
from lora.dataset.caption_files import CaptionFiles, GuessedEncoding, is_caption_file, is_of_one_image, read_captions
from lora.dataset.file_kinds import NEITHER
from lora.dataset.image_names import ImageNames
from lora.dataset.refusal import ContentError
from tests.tiny import assert_one_sentence, write, zipped


def found(tmp_path, files, *, images=(), into="into"):
    members = unpack_archive(write(tmp_path / "captions.zip", zipped(files)), into=tmp_path / into)
    return read_captions(members, ImageNames.of(images))


def texts(tmp_path, files, *, images=()):
    return {str(caption.target): caption.text for caption in found(tmp_path, files, images=images).captions}


def refusal(tmp_path, files):
    with pytest.raises(ContentError) as error:
        found(tmp_path, files)
    assert_one_sentence(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "x/a.caption", "x\\a.png.txt", "a.rtf", "metadata.jsonl", "my.csv"])
def test_a_file_that_may_hold_captions_is_recognized_by_its_name(name):
    assert is_caption_file(name)


@pytest.mark.parametrize("name", ["a.png", "a.parquet", "a.docx", "txt", "a.txt.png", "a.txt/b"])
def test_other_files_are_not_caption_files(name):
    assert not is_caption_file(name)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a.txt", "a"),
        ("a.caption", "a"),
        ("a.png.txt", "a.png"),
        ("x/y z/a.b.TXT", "x/y z/a.b"),
        ("x\\a.txt", "x/a"),
        ("cafe\u0301.txt", "café"),
        ("a.cap", "a"),
        ("a.txt.txt", "a"),
        ("a.png.txt.TXT", "a.png"),
        ("a.caption.txt", "a"),
    ],
)
def test_a_caption_belongs_to_the_image_of_the_same_name(tmp_path, name, target):
    assert texts(tmp_path, {name: "a dog"}) == {target: "a dog"}


@pytest.mark.parametrize(
    ("file_name", "target"),
    [
        ("a.png", "x/a.png"),
        (" a.png ", "x/a.png"),
        ("./images/a.png", "x/images/a.png"),
        ("images\\a.png", "x/images/a.png"),
        ("../images/a.png", "images/a.png"),
        ("../../a.png", "a.png"),
        ("/home/me/a.png", "x/home/me/a.png"),
        ("C:\\me\\a.png", "x/C_/me/a.png"),
        ("cafe\u0301.png", "x/café.png"),
        ("a", "x/a"),
    ],
)
def test_file_names_in_a_table_are_relative_to_its_folder(tmp_path, file_name, target):
    assert texts(tmp_path, {"x/captions.json": json.dumps({file_name: "a dog"})}) == {target: "a dog"}


def test_a_text_file_takes_precedence_over_a_caption_file_and_that_over_a_table(tmp_path):
    files = {
        "captions.csv": "a.png,a dog",
        "captions.json": '{"a.png": "a dog"}',
        "metadata.jsonl": '{"file_name": "a.png", "text": "a dog"}',
        "a.caption": "a dog",
        "a.txt": "a dog",
    }
    captions = sorted(found(tmp_path, files).captions, key=lambda caption: caption.rank)
    assert [caption.source for caption in captions] == list(reversed(files))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b""),
        ("a.txt", b" \r\n\t"),
        ("a.txt", b"\xef\xbb\xbf"),
        ("captions.json", b""),
        ("captions.csv", b"\n"),
        ("metadata.jsonl", b""),
    ],
)
def test_an_empty_file_has_no_caption(tmp_path, name, content):
    """A55."""
    assert found(tmp_path, {name: content}).captions == ()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_table_is_read_in_every_encoding_that_excel_writes(tmp_path, encoding):
    content = "file_name;text\r\ncafé.png;un café, l'été\r\n".encode(encoding)
    assert texts(tmp_path, {"captions.csv": content}) == {"café.png": "un café, l'été"}


def test_only_encodings_other_than_unicode_are_reported(tmp_path):
    files = {"a.txt": "été, à la plage".encode("cp1252"), "b.txt": "é".encode("utf-16"), "c.txt": "é".encode()}
    assert found(tmp_path, files).guessed_encodings == (GuessedEncoding("a.txt", "cp1252"),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00", "it is not text"),
        (b"a dog\0", "it is not text"),
        (b"<!DOCTYPE html><p>404", "it is a web page"),
        (b"x" * 65_537, "it has 65,537 bytes: expected at most 65,536"),
    ],
)
def test_an_unreadable_file_is_reported_and_the_others_are_read(tmp_path, content, reason):
    captions = found(tmp_path, {"a.txt": content, "b.txt": "a cat"})
    assert captions.unreadable == (Skipped("a.txt", reason),)
    assert [caption.text for caption in captions.captions] == ["a cat"]


def test_a_file_of_64_kibibytes_is_read(tmp_path):
    assert texts(tmp_path, {"a.txt": b"x" * 65_536}) == {"a": "x" * 65_536}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00", "it is not text"),
        (b'{"a.png": 5}', "the caption of 'a.png' is 5: expected text"),
        (b'{"a.png": "a dog, asleep"}', "it has 26 bytes: expected at most 25"),
    ],
)
def test_the_error_for_an_unreadable_table_names_it(tmp_path, content, reason, monkeypatch):
    """A64."""
    monkeypatch.setattr(caption_files, "MAX_TABLE_BYTES", 25)
    assert refusal(tmp_path, {"x/captions.json": content}) == (
        f"holds 'x/captions.json', which cannot be read as captions: {reason}"
    )


@pytest.mark.parametrize("files", [{"captions.csv": "x,a\ny,b\nz,c"}, {"x.txt": "a", "y.txt": "b", "z.txt": "c"}])
def test_the_number_of_captions_is_limited(tmp_path, files, monkeypatch):
    monkeypatch.setattr(caption_files, "MAX_CAPTIONS", 2)
    assert "more than 2 captions" in refusal(tmp_path, files)
    monkeypatch.setattr(caption_files, "MAX_CAPTIONS", 3)
    assert len(found(tmp_path, files, into="again").captions) == 3


def test_the_total_size_of_the_captions_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_files, "MAX_TEXT_BYTES", 100)
    with pytest.raises(ContentError, match="more than 100 bytes of captions"):
        texts(tmp_path, {f"{index}.txt": "a dog " * 10 for index in range(2)})


IMAGES = ("0.jpg", "x/1.jpg")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("0.json", '{"caption": "a dog", "caption_short": "dog"}'),
        ("0.jpg.json", '{"Prompt": "a dog", "width": 512}'),
        ("0.json", '{"tags": ["a dog"], "caption": ""}'),
        ("0.txt", '{"caption": "a dog"}'),
        ("0.txt", r"{\rtf1\ansi{\fonttbl\f0 Arial;}\f0 a dog}"),
        ("0.rtf", r"{\rtf1\ansi a dog\par}"),
        ("0.jpg.metadata.json", '{"title": "0.jpg", "description": "a dog", "url": "https://example.org/5"}'),
    ],
)
def test_a_caption_beside_its_image_is_read_by_its_content(tmp_path, name, content):
    (caption,) = found(tmp_path, {name: content}, images=IMAGES).captions
    assert (caption.text.strip(), caption.target.stem, is_of_one_image(caption)) == ("a dog", "0", True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset.csv", "id,image_path,caption\n5,/home/me/0.jpg,a dog\n6,/home/me/1.jpg,a cat"),
        ("meta_cap.json", '{"0": {"caption": "a dog"}, "1": {"tags": "a cat"}}'),
        (
            "train.jsonl",
            '{"image_path": "/d/0.jpg", "caption": "a dog"}\n{"image_path": "/d/1.jpg", "caption": "a cat"}',
        ),
        ("captions.txt", "image,caption\n0.jpg,a dog\n1.jpg,a cat"),
        ("prompts.txt", "0.jpg: a dog\n1.jpg: a cat"),
        ("converted.csv", "file_name,text\n0.png,a dog\n1.webp,a cat"),
    ],
)
def test_a_table_with_any_name_is_read_if_it_names_the_images(tmp_path, name, content):
    captions = found(tmp_path, {name: content}, images=IMAGES).captions
    assert [(caption.text.strip(), caption.target.stem) for caption in captions] == [("a dog", "0"), ("a cat", "1")]
    assert not any(map(is_of_one_image, captions))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sales.csv", "0,1,2\n1,0,5"),
        ("exif.csv", "file_name,width\n0.jpg,512"),
        ("0.jpg.json", '{"title": "0.jpg", "description": "", "url": "https://example.org/5"}'),
        ("config.json", '{"process": [{"caption_ext": "txt", "prompts": ["a"]}]}'),
        (
            "report/dataset.json",
            '{"images": [{"name": "0.jpg", "prompt": "a"}], "caption_sources": {}, "look_alikes": []}',
        ),
    ],
)
def test_a_table_of_other_things_is_no_caption_file(tmp_path, name, content):
    assert found(tmp_path, {name: content}, images=IMAGES) == CaptionFiles(unreadable=(Skipped(name, NEITHER),))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("data.csv", "image,caption\ngone.jpg,a dog", "it names no image of the archive"),
        ("0.json", '{"caption": "a dog', "Unterminated string"),
        ("0.json", '{"caption": 5}', "its caption is 5: expected text"),
        ("list.csv", "0.jpg,5,a dog on grass\n1.jpg,6,a cat on grass", "column 2 holds only numbers"),
    ],
)
def test_a_file_that_seems_to_hold_captions_is_suspected(tmp_path, name, content, problem):
    files = found(tmp_path, {name: content}, images=IMAGES)
    assert (files.captions, files.unreadable) == ((), ())
    assert [file.name for file in files.suspected] == [name]
    assert problem in files.suspected[0].reason


def test_a_table_whose_columns_name_different_images_is_refused_whatever_its_name(tmp_path):
    content = "source,target,caption\n0.jpg,1.jpg,a dog\n1.jpg,0.jpg,a cat"
    members = unpack_archive(write(tmp_path / "captions.zip", zipped({"my.csv": content})), into=tmp_path / "into")
    with pytest.raises(ContentError, match=r"'my.csv', .* 'source', 'target' each name images, and different ones"):
        read_captions(members, ImageNames.of(IMAGES))


def test_caption_files_without_a_word_are_named(tmp_path):
    files = {"0.txt": " ", "1.json": '{"caption": ""}', "captions.csv": "file_name,text\n0.jpg,"}
    assert found(tmp_path, files, images=IMAGES).empty == tuple(files)


@pytest.mark.parametrize(("names", "is_read"), [("01234", True), ("012ab", True), ("0abcd", False)])
def test_a_table_with_any_name_must_name_half_of_the_images_or_be_half_of_images(tmp_path, names, is_read):
    content = json.dumps(dict.fromkeys(names, "a dog"))
    captions = found(tmp_path, {"my.json": content}, images=[f"{index}.jpg" for index in range(5)]).captions
    assert bool(captions) is is_read
