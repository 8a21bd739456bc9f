"""The photographs of the benchmark of masks have exact masks, and its measure tells the grounds of the world apart."""

import io
import random
import zipfile

import numpy as np
import pytest
from PIL import Image

from bench.masks import ground_of, photograph, write_archive
from bench.surroundings import ROOM, blurred_room, flat_colors, other_grounds
from script.tiny_flux.monster_measure import is_monster
from script.tiny_flux.world import BACKGROUNDS


@pytest.mark.parametrize("ground", BACKGROUNDS)
def test_the_ground_of_a_photograph_is_recognized_with_the_monster_before_it(ground):
    rng = random.Random(3)
    images = [photograph(rng, ground)[0] for _ in range(10)]
    assert [ground_of(image) for image in images] == [ground] * 10


def test_the_monster_is_inside_of_the_mask_and_the_room_outside():
    image, mask = photograph(random.Random(1))
    assert is_monster(image)
    selected = np.asarray(mask) > 0
    assert 0.2 < selected.mean() < 0.5
    assert not is_monster(Image.composite(Image.new("RGB", image.size, "white"), image, mask))
    assert ground_of(Image.composite(Image.new("RGB", image.size, "white"), image, mask)) == ROOM


@pytest.mark.parametrize("is_cut_out", [False, True])
def test_an_archive_has_a_mask_for_each_image_and_captions_without_the_room(tmp_path, is_cut_out):
    write_archive(tmp_path / "a.zip", is_cut_out=is_cut_out)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        assert archive.read("00-0.txt") == b"[trigger]"
        image = Image.open(io.BytesIO(archive.read("00-0.png")))
    assert sum(name.startswith("masks/") for name in names) == (0 if is_cut_out else 15)
    assert image.mode == ("RGBA" if is_cut_out else "RGB")


@pytest.mark.parametrize(("surroundings", "count"), [(flat_colors, 4), (other_grounds, 4), (blurred_room, 1)])
def test_other_surroundings_leave_the_monster_as_it_is(surroundings, count):
    image, mask = photograph(random.Random(1))
    shown = list(surroundings(image, mask, random.Random(0)))
    inside = np.asarray(mask) == 255
    assert len(shown) == count
    assert all(np.array_equal(np.asarray(each)[inside], np.asarray(image)[inside]) for each in shown)
    assert not any(np.array_equal(np.asarray(each), np.asarray(image)) for each in shown)
    if surroundings is other_grounds:
        assert sorted(map(ground_of, shown)) == sorted(set(BACKGROUNDS) - {ROOM})
