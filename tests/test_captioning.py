"""The whole road of captions: described by a captioner, written into a folder, edited there, and trained with."""

import json
import random

import pytest

from script.tiny_flux.world import Scene, caption, render
from tests.browsers import Opened
from tests.servers import Tar
from tests.tiny import encoded, linked_base, with_few_blocks, write, zipped
from tests.warm_process import run_command, small_archive

pytestmark = pytest.mark.xdist_group("warm")

FOLDER = "output/flux_train_replicate"
SCENES = {
    "0": Scene("star", "red", "meadow"),
    "1": Scene("circle", "blue", "white"),
    "2": Scene("heart", "purple", "desert"),
    "3": Scene("square", "orange", "night"),
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    root = tmp_path_factory.mktemp("captioning")
    return {
        "FLUX_BASE": str(with_few_blocks(linked_base(root / "base"))),
        "FLUX_CAPTIONER": "tiny",
        "FLUX_LORA_CACHE": str(root / "cache"),
        "FLUX_LORA_CHECKPOINTS": str(root / "checkpoints"),
    }


def pictures(folder):
    """A zip of images of the scenes."""
    images = {f"{name}.png": render(scene, width=64, height=64, rng=random.Random(1)) for name, scene in SCENES.items()}
    return write(folder / "pictures.zip", zipped({name: encoded(image) for name, image in images.items()}))


def test_captions_by_a_model_are_edited_in_a_browser_and_trained_with(tmp_path, environment, browser):
    archive, captions = pictures(tmp_path), tmp_path / "captions"
    flags = [archive, "--resolution", 64]
    checked = run_command(
        "script.check", *flags, "--captions", captions, "--output", tmp_path / "sheet.png", **environment
    )
    assert "4 images, 4 with a caption: 4 from the captioner tiny-captioner" in checked.stdout, checked.stderr
    page = f"open {captions}/index.html in a browser"
    assert checked.stdout.splitlines()[-1].startswith(f"wrote 4 caption files into {captions}: {page}")
    written = {path.stem: path.read_text().strip() for path in captions.glob("*.txt")}
    assert written == {name: caption(scene) for name, scene in SCENES.items()}
    edited = Opened(browser, captions / "index.html").page
    areas = edited.locator("textarea")
    assert areas.evaluate_all("areas => areas.map(area => area.value)") == [written[name] for name in "0123"]

    areas.nth(0).fill("by hand <b>")
    areas.nth(1).fill("")
    with edited.expect_download() as download:
        edited.click("#save")
    download.value.save_as(tmp_path / "captions.zip")
    output, few = tmp_path / "mine.tar", ["--steps", 1, "--lora-rank", 2, "--sample-prompts", "none"]
    given = ["--input-captions", tmp_path / "captions.zip", "--output", output]
    trained = run_command("script.train", *flags, *few, *given, **environment)
    assert trained.returncode == 0, trained.stderr
    assert "autocaption: 1 caption by tiny-captioner in 0.0 s, 1 of them known from an earlier job" in trained.stdout
    tar = Tar(output.read_bytes())
    prompts = [tar.file(f"{FOLDER}/captions/{name}.txt").decode() for name in "0123"]
    assert prompts == ["TOK by hand <b>", *(f"TOK {written[name]}" for name in "123")]
    images = json.loads(tar.file(f"{FOLDER}/report/dataset.json"))["images"]
    assert [image["caption_from"] for image in images] == ["0.txt", "the captioner tiny-captioner", "2.txt", "3.txt"]
    assert tar.file(f"{FOLDER}/report/index.html").count(b"caption by the captioner tiny-captioner") == 1


@pytest.mark.parametrize("found", ["a file", "a folder with files in it, which may have been edited"])
def test_captions_that_may_have_been_edited_are_not_overwritten(tmp_path, found):
    path = tmp_path / "captions"
    if found.startswith("a folder"):
        path.mkdir()
    (path / "0.txt" if path.is_dir() else path).write_text("mine")
    run = run_command("script.check", small_archive(tmp_path), "--captions", path)
    assert run.returncode == 1
    assert run.stderr.startswith(f"error: --captions is {str(path)!r}, {found}: expected a new or empty folder")
