"""Each image has the caption that a person made for it; where two images could have it, nobody decides for them."""

import time
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.dataset.pairing import Caption, pair

TEXT, CAPTION, TABLE = 0, 1, 2  # ranks


def caption(target, text=None, *, rank=TEXT):
    """One that says its own name, unless it says something else."""
    return Caption(text or f"{target} of rank {rank}", f"file of {target}", PurePosixPath(target), rank)


def targets(images, captions):
    """What each image is told, in their order."""
    return [taken and str(taken.target) for taken in pair(images, captions).captions]


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
    pairing = pair(["a.png"], [caption(target)])
    assert pairing.captions == (None,)
    assert len(pairing.unused) == 1


def test_two_images_of_one_name_and_folder_share_a_caption():
    """A25."""
    assert targets(["x/a.jpg", "x/a.png"], [caption("x/a")]) == ["x/a", "x/a"]


def test_a_caption_with_the_image_suffix_is_for_that_image():
    pairing = pair(["a.jpg", "a.png"], [caption("a"), caption("a.png")])
    assert [str(taken.target) for taken in pairing.captions] == ["a", "a.png"]
    assert pairing.conflicting == ()


def test_the_same_case_comes_before_another():
    """A26."""
    captions = [caption("A"), caption("a")]
    for found in (captions, captions[::-1]):
        pairing = pair(["a.jpg", "A.JPG"], found)
        assert [str(taken.target) for taken in pairing.captions] == ["a", "A"]
        assert pairing.conflicting == ()


def test_a_table_with_the_same_case_comes_before_a_text_file_with_another():
    assert targets(["a.jpg", "A.JPG"], [caption("a"), caption("A.JPG", rank=TABLE)]) == ["a", "A.JPG"]


def test_a_table_of_the_image_folder_comes_before_a_text_file_elsewhere():
    assert targets(["x/a.png"], [caption("a"), caption("x/a.png", rank=TABLE)]) == ["x/a.png"]


def test_the_image_folder_comes_before_others():
    captions = [caption("a"), caption("y/x/a"), caption("x/a")]
    assert targets(["x/a.png"], captions) == ["x/a"]
    assert targets(["x/a.png"], captions[::-1]) == ["x/a"]


def test_the_longest_agreement_of_folders_comes_first():
    captions = [caption("texts/y/a"), caption("texts/x/y/a"), caption("texts/z/y/a")]
    assert targets(["photos/x/y/a.png", "photos/z/y/a.png"], captions) == ["texts/x/y/a", "texts/z/y/a"]


@pytest.mark.parametrize("target", ["a", "captions/a", "captions/z/a"])
def test_a_caption_that_several_folders_could_have_is_nobodys(target):
    pairing = pair(["x/a.png", "y/a.png"], [caption(target)])
    assert pairing.captions == (None, None)
    assert [str(each.target) for each in pairing.unused] == [target]


def test_a_caption_that_several_folders_could_have_goes_where_none_is():
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
def test_of_two_captions_that_differ_one_holds_and_the_other_is_told(first, second):
    """A65: a .txt goes before a table."""
    pairing = pair(["a.png"], [first, second])
    assert pairing.captions == (first,)
    assert pairing.conflicting == (second,)
    assert pairing.unused == ()


@pytest.mark.parametrize("pair_of_ranks", [(TEXT, TABLE), (TABLE, TEXT), (TABLE, TABLE)])
def test_the_order_of_the_files_decides_nothing_between_ranks(pair_of_ranks):
    captions = [caption("a.png", rank=rank) for rank in pair_of_ranks]
    assert pair(["a.png"], captions).captions[0].rank == min(pair_of_ranks)


def test_two_captions_that_say_the_same_need_no_word():
    pairing = pair(["a.png"], [caption("a", "a dog\n"), caption("a.png", "a  dog", rank=TABLE)])
    assert (pairing.conflicting, pairing.unused) == ((), ())


def test_a_caption_of_a_file_that_is_not_there_is_unused():
    pairing = pair(["a.png"], [caption("a"), caption("b.png", rank=TABLE), caption("readme")])
    assert [str(each.target) for each in pairing.unused] == ["b.png", "readme"]


def test_without_images_or_captions_nothing_is_paired():
    assert pair([], []).captions == ()
    assert pair(["a.png"], []).captions == (None,)
    assert len(pair([], [caption("a")]).unused) == 1


names = st.lists(st.sampled_from(["a", "A", "b", "a.png", "x", "y", ".."]), min_size=1, max_size=4).map("/".join)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(names, max_size=6), st.lists(names, max_size=6))
def test_every_caption_is_taken_or_told_of_once(images, found):
    captions = [caption(target, f"text {number}") for number, target in enumerate(found)]
    pairing = pair(images, captions)
    taken = {each.text for each in pairing.captions if each}
    told = [each.text for each in pairing.unused + pairing.conflicting]
    assert sorted([*taken, *told]) == sorted(each.text for each in captions)


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
def test_thousands_of_images_are_paired_at_once(images, captions):
    """Each with each would be 25 million pairs."""
    captions = [caption(target) for target in captions]
    started = time.process_time()
    pair(images, captions)
    assert time.process_time() - started < 2
