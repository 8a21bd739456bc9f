"""Each image is paired with the caption of its name; a caption that is ambiguous stays unused."""

import time
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.dataset.pairing import Caption, pair_captions

TEXT, CAPTION, TABLE = 0, 1, 2  # ranks


def caption(target, text=None, *, rank=TEXT):
    """A caption whose text is unique for its name, unless a text is given."""
    return Caption(text or f"{target} of rank {rank}", f"file of {target}", PurePosixPath(target), rank)


def targets(images, captions):
    """The target of the caption of each image, in the order of the images."""
    return [selected and str(selected.target) for selected in pair_captions(images, captions).captions]


@pytest.mark.parametrize(
    ("image", "target"),
    [
        ("a.png", "a"),
        ("a.png", "a.png"),
        ("a.png", "A.PNG"),
        ("A.PNG", "a"),
        ("a.b.png", "a.b"),
        ("a", "a"),
        ("cafe\u0301.png", "café"),
        ("STRASSE.png", "straße"),
        ("🦊 (1).png", "🦊 (1)"),
        ("x\\a.png", "x/a"),
        ("X/a.png", "x/a"),
        ("photos/x/a.png", "a"),
        ("a.png", "photos/x/a"),
        ("photos/x/a.png", "captions/x/a"),
        ("x/a.png", "output/flux_train_replicate/captions/x/a"),
        ("photos/x/a.png", "output/flux_train_replicate/captions/x/a"),
        ("x/images/a.png", "home/me/images/a.png"),
    ],
)
def test_an_image_has_the_caption_of_its_name(image, target):
    """A22."""
    assert targets([image], [caption(target)]) == [target]


@pytest.mark.parametrize("target", ["b", "a.jpg", "a.png.x", "a/b", ""])
def test_an_image_has_no_caption_of_another_name(target):
    pairing = pair_captions(["a.png"], [caption(target)])
    assert pairing.captions == (None,)
    assert len(pairing.unused) == 1


def test_two_images_of_one_name_and_folder_share_a_caption():
    """A25."""
    assert targets(["x/a.jpg", "x/a.png"], [caption("x/a")]) == ["x/a", "x/a"]


def test_a_caption_with_the_suffix_of_an_image_belongs_to_that_image():
    pairing = pair_captions(["a.jpg", "a.png"], [caption("a"), caption("a.png")])
    assert [str(selected.target) for selected in pairing.captions] == ["a", "a.png"]
    assert pairing.conflicting == ()


def test_a_caption_of_the_same_case_takes_precedence():
    """A26."""
    captions = [caption("A"), caption("a")]
    for order in (captions, captions[::-1]):
        pairing = pair_captions(["a.jpg", "A.JPG"], order)
        assert [str(selected.target) for selected in pairing.captions] == ["a", "A"]
        assert pairing.conflicting == ()


def test_a_table_with_the_same_case_takes_precedence_over_a_text_file_with_another():
    assert targets(["a.jpg", "A.JPG"], [caption("a"), caption("A.JPG", rank=TABLE)]) == ["a", "A.JPG"]


def test_a_table_in_the_folder_of_the_image_takes_precedence_over_a_text_file_elsewhere():
    assert targets(["x/a.png"], [caption("a"), caption("x/a.png", rank=TABLE)]) == ["x/a.png"]


def test_a_caption_in_the_folder_of_the_image_takes_precedence():
    captions = [caption("a"), caption("y/x/a"), caption("x/a")]
    assert targets(["x/a.png"], captions) == ["x/a"]
    assert targets(["x/a.png"], captions[::-1]) == ["x/a"]


def test_the_caption_with_the_longest_common_path_takes_precedence():
    captions = [caption("texts/y/a"), caption("texts/x/y/a"), caption("texts/z/y/a")]
    assert targets(["photos/x/y/a.png", "photos/z/y/a.png"], captions) == ["texts/x/y/a", "texts/z/y/a"]


@pytest.mark.parametrize("target", ["a", "captions/a", "captions/z/a"])
def test_a_caption_that_matches_images_in_several_folders_is_unused(target):
    pairing = pair_captions(["x/a.png", "y/a.png"], [caption(target)])
    assert pairing.captions == (None, None)
    assert [str(each.target) for each in pairing.unused] == [target]


def test_a_caption_that_matches_several_folders_belongs_to_the_image_without_another():
    assert targets(["x/a.png", "y/a.png"], [caption("a"), caption("x/a")]) == ["x/a", "a"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (caption("a", rank=TEXT), caption("a.png", rank=TABLE)),
        (caption("a", rank=TEXT), caption("a", rank=CAPTION)),
        (caption("a", rank=CAPTION), caption("a.png", rank=TABLE)),
        (caption("a.png", rank=TABLE), caption("a.png", "another row", rank=TABLE)),
        (caption("a"), caption("A")),
        (caption("a.png"), caption("a")),
        (caption("a"), caption("x/a")),
    ],
)
def test_of_two_different_captions_one_is_used_and_the_other_is_reported(first, second):
    """A65: a .txt file takes precedence over a table."""
    pairing = pair_captions(["a.png"], [first, second])
    assert pairing.captions == (first,)
    assert pairing.conflicting == (second,)
    assert pairing.unused == ()


@pytest.mark.parametrize("pair_of_ranks", [(TEXT, TABLE), (TABLE, TEXT), (TABLE, TABLE)])
def test_the_rank_of_a_caption_matters_and_not_its_position(pair_of_ranks):
    captions = [caption("a.png", rank=rank) for rank in pair_of_ranks]
    assert pair_captions(["a.png"], captions).captions[0].rank == min(pair_of_ranks)


def test_two_captions_with_the_same_words_do_not_conflict():
    pairing = pair_captions(["a.png"], [caption("a", "a dog\n"), caption("a.png", "a  dog", rank=TABLE)])
    assert (pairing.conflicting, pairing.unused) == ((), ())


def test_a_caption_without_an_image_is_unused():
    pairing = pair_captions(["a.png"], [caption("a"), caption("b.png", rank=TABLE), caption("readme")])
    assert [str(each.target) for each in pairing.unused] == ["b.png", "readme"]


def test_without_images_or_captions_nothing_is_paired():
    assert pair_captions([], []).captions == ()
    assert pair_captions(["a.png"], []).captions == (None,)
    assert len(pair_captions([], [caption("a")]).unused) == 1


names = st.lists(st.sampled_from(["a", "A", "b", "a.png", "x", "y", ".."]), min_size=1, max_size=4).map("/".join)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(names, max_size=6), st.lists(names, max_size=6))
def test_every_caption_is_either_used_or_reported(images, order):
    captions = [caption(target, f"text {number}") for number, target in enumerate(order)]
    pairing = pair_captions(images, captions)
    selected = {each.text for each in pairing.captions if each}
    reported = [each.text for each in pairing.unused + pairing.conflicting]
    assert sorted([*selected, *reported]) == sorted(each.text for each in captions)


FOLDERS, MANY = "/".join("abcdefgh"), range(5_000)


@pytest.mark.parametrize(
    ("images", "captions"),
    [
        ([f"{n}/a.png" for n in MANY], [f"texts/{n}/a" for n in MANY]),
        ([f"{n}/a.png" for n in MANY], [f"texts of {n}/a" for n in MANY]),
        (["a.png" for _ in MANY], ["a.png" for _ in MANY]),
        ([f"x/{n}.png" for n in MANY], [f"y/{n}" for n in MANY]),
        ([f"{n}/{FOLDERS}/a.png" for n in MANY], [f"{FOLDERS}/a" for n in MANY]),
    ],
    ids=["same tails", "no tails", "one name", "other names", "long tails"],
)
def test_thousands_of_images_are_paired_quickly(images, captions):
    """A quadratic algorithm would compare 25 million pairs."""
    captions = [caption(target) for target in captions]
    started = time.process_time()
    pair_captions(images, captions)
    assert time.process_time() - started < 2
