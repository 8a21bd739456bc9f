"""Names from an archive are compared and printed safely, and never lead out of a folder."""

import json
import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.dataset.names import is_user_file, path_of, printable, quoted, sanitize_path, suffix_of

parts = st.sampled_from(["..", ".", "", "/", "\\", "C:", " ", "...", "a", "é" * 200, "💥" * 100, "a.txt", "\0", "~"])
paths = st.lists(parts | st.text(max_size=5), max_size=8).map("/".join)


@pytest.mark.parametrize(
    "name", ["a.jpg", "x/a.jpg", "../a.jpg", "./a.jpg", "/a.jpg", "x\\a.jpg", "a", "my.folder/a..jpg", "macosx/a.jpg"]
)
def test_ordinary_files_are_user_files(name):
    assert is_user_file(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "._a.jpg", ".DS_Store", ".git/a.jpg", "x/.hidden/a.jpg", ".../a.jpg", "x\\._a.jpg"),
        *("__MACOSX/a.jpg", "x/__MACOSX/a.jpg", "__macosx\\a.jpg", "$RECYCLE.BIN/a.jpg"),
        *("Thumbs.db", "thumbs.DB", "x/desktop.ini", "x\\Desktop.ini", printable("x/Icon\r")),
    ],
)
def test_hidden_files_and_files_of_the_system_are_not_user_files(name):
    assert not is_user_file(name)


@pytest.mark.parametrize(
    "name", ["x/café.jpg", "x\\café.jpg", unicodedata.normalize("NFD", "x/café.jpg"), "./x//café.jpg"]
)
def test_equivalent_names_give_the_same_path(name):
    assert path_of(name) == PurePosixPath("x/café.jpg")


@pytest.mark.parametrize(("name", "suffix"), [("a.JPG", ".jpg"), ("x.y\\a.Tar.GZ", ".gz"), ("x.y/a", ""), (".jpg", "")])
def test_a_suffix_is_returned_in_lower_case(name, suffix):
    assert suffix_of(name) == suffix


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("x/a.jpg", "x/a.jpg"),
        ("../../a.jpg", "a.jpg"),
        ("/etc/a.jpg", "etc/a.jpg"),
        ("C:\\x\\a.jpg", "C_/x/a.jpg"),
        ("x/ /.../a.jpg", "x/a.jpg"),
        ("..", "_"),
        ("", "_"),
    ],
)
def test_a_name_is_converted_to_a_relative_path(name, path):
    assert sanitize_path(name) == PurePosixPath(path)


@given(paths)
def test_no_name_leads_out_of_a_folder(name):
    path = sanitize_path(printable(name))
    assert not path.is_absolute()
    assert path.parts
    assert not {"..", "."} & set(path.parts)
    assert all(len(part.encode()) <= 200 and not set(part) & set("\\:\0") for part in path.parts)


@pytest.mark.parametrize(
    "name", ["é 日本 (1).jpg", "👩\u200d🚀❤\ufe0f.jpg", "at 3.00.00\u202fPM.png", "a\xa0b.jpg", "क्\u200dष.txt"]
)
def test_ordinary_names_are_printed_unchanged(name):
    assert printable(name) == name


@pytest.mark.parametrize("hidden", ["\n", "\r", "\0", "\x1b", "\x7f", "\x9b", "\u2028", "\u202e", "\u2066", "\udcff"])
def test_invisible_and_control_characters_are_replaced(hidden):
    assert printable(f"a{hidden}b") == "a?b"


@given(st.text() | st.text(st.characters(categories=["Cs", "Cc", "Cf"])))
def test_every_printable_name_is_valid_utf_8_on_one_line(name):
    shown = printable(name)
    assert len(shown) == len(name)
    assert len(f"{json.loads(json.dumps(shown))}x".encode().decode().splitlines()) == 1


def test_a_long_name_in_an_error_is_truncated():
    assert quoted("it's.jpg") == '"it\'s.jpg"'
    assert quoted("x" * 201) == f"'{'x' * 200}…'"
