"""The embedded captioner names shape, colour and place, calls other figures a creature, and is built reproducibly."""

import filecmp
import io
import random
import zipfile
from dataclasses import replace

import pytest
from PIL import Image

from script.tiny_captioner.build import SETTINGS, describer, save
from script.tiny_captioner.examples import Content, any_example, words_for
from script.tiny_captioner.measure import (
    accuracy,
    demo_monsters,
    described_monsters,
    held_out_captions,
    other_figures,
)
from script.tiny_captioner.model import Dimensions, words
from script.tiny_captioner.training import trained
from script.tiny_flux.monster import ARCHIVE, TRAINING_IMAGES
from script.tiny_flux.world import SHAPES, held_out_scenes
from weights.caption_model import TINY_FOLDER

FEW = replace(
    SETTINGS,
    dimensions=Dimensions(side=16, patch=8, width=16, layers=1, text_width=16, text_layers=1, heads=2),
    steps=2,
    batch=2,
)


@pytest.fixture(scope="module")
def describe():
    return describer(TINY_FOLDER)


@pytest.mark.parametrize(("width", "height", "renders"), [(128, 128, 4), (160, 112, 1), (80, 120, 1)])
def test_it_names_shape_colour_and_place_in_combinations_that_it_is_not_trained_on(describe, width, height, renders):
    found = accuracy(held_out_captions(describe, renders=renders, width=width, height=height))
    print(f"\n{found}")
    assert found.shape.images == renders * len(held_out_scenes())
    for count in (found.shape, found.colour, found.place):
        assert count.right >= 0.95 * count.images, found


@pytest.mark.parametrize(
    ("counted", "floor"), [(demo_monsters, 0.95), (described_monsters, 0.9), (other_figures, 0.65)]
)
def test_it_calls_a_figure_without_a_word_a_creature(describe, counted, floor):
    found = counted(describe, images=40)
    print(f"\n{found}")
    assert found.right >= floor * found.images


def test_it_describes_each_picture_of_the_demo_by_the_words_of_its_caption(describe):
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        captions = [archive.read(name.replace(".png", ".txt")).decode() for name in names]
        images = [Image.open(io.BytesIO(archive.read(name))) for name in names]
    written = [caption.replace("a creature", "[trigger]") for caption in describe(images)]
    assert len(names) == TRAINING_IMAGES
    assert written == captions


def test_a_build_with_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        save(trained(FEW), into=tmp_path / name)
    save(trained(replace(FEW, seed=1)), into=tmp_path / "other")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "tokenizer.json" in names
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", names, shallow=False)[0] == names
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "other", names, shallow=False)[1] == ["model.safetensors"]


def test_the_committed_captioner_has_the_files_and_the_processor_that_the_builder_writes(tmp_path):
    save(trained(replace(SETTINGS, steps=1, batch=1)), into=tmp_path)
    assert sorted(path.name for path in TINY_FOLDER.iterdir()) == sorted(path.name for path in tmp_path.iterdir())
    processor = ["processor_config.json", "tokenizer.json"]
    assert filecmp.cmpfiles(TINY_FOLDER, tmp_path, processor, shallow=False)[0] == processor


def test_the_pictures_of_the_training_show_none_of_the_held_out_combinations():
    rng, held_out = random.Random(0), {(s.shape, s.colour, s.background) for s in held_out_scenes()}
    contents = [any_example(rng).content for _ in range(400)]
    assert {content.figure for content in contents} == {*SHAPES, "creature", ""}
    assert not held_out & {(each.figure, each.colour, each.background) for each in contents}
    assert {word for content in contents for word in words_for(content).split()} <= set(words())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (Content("star", "orange", "meadow"), "an orange star in a meadow"),
        (Content("star", "", "night"), "a star under the night sky"),
        (Content("creature", "", "desert"), "a creature in the desert"),
        (Content("", "", "white"), "a white background"),
    ],
)
def test_a_caption_says_only_what_has_a_word(content, expected):
    assert words_for(content) == expected
