"""The demo trains and generates through the real servers, and counts what its images show."""

import random
import sys

import pytest
from PIL import Image, ImageChops

from script.contact_sheet import TILE, Row, contact_sheet
from script.demo import (
    PROMPTS,
    SAMPLING,
    SCALES,
    TRAINING,
    WITH_TRIGGER,
    WITHOUT_TRIGGER,
    captions_line,
    generate,
    images_alone,
    main,
    train,
    training_images,
)
from script.demo_findings import findings
from script.tiny_flux.monster import ARCHIVE, TRAINING_IMAGES, monster_caption, render_monster
from script.tiny_flux.world import BACKGROUNDS, Scene, render

CAPTIONS = [monster_caption(name, trigger="TOK a creature") for name in BACKGROUNDS]
QUICK = TRAINING | {"steps": 4, "batch_size": 1, "resolution": "64"}


@pytest.mark.xdist_group("servers")
def test_the_demo_trains_and_generates_through_the_real_servers(train_server, predict_server, tmp_path, capsys):
    lora = tmp_path / "trained_model.tar"
    lora.write_bytes(train(train_server, images_alone(ARCHIVE), QUICK))
    rows = generate(predict_server, lora, SAMPLING | {"num_outputs": 1, "num_inference_steps": 1})
    printed = capsys.readouterr().out
    assert "autocaption: 15 captions by tiny-captioner in " in printed
    assert "15 images, 15 with a caption: 15 from the captioner tiny-captioner" in printed
    assert captions_line(lora) == f"The captioner wrote: {', '.join(f'{text!r} (3)' for text in CAPTIONS)}."
    assert "preservation: generated 1 image in " in printed, "the log of the training is shown"
    assert "step 4/4  loss " in printed
    assert "1 step with preservation." in printed
    assert [row.prompt for row in rows] == list(PROMPTS)
    assert all([*row.by_scale] == list(SCALES) and all(map(len, row.by_scale.values())) for row in rows)
    assert findings(rows, WITHOUT_TRIGGER).startswith("With the trigger word, 0 of 2 images show the monster")


@pytest.mark.parametrize("name", ["klein", "tiny-flux3", ""])
def test_a_base_that_the_demos_images_do_not_suit_is_refused_before_anything_starts(
    monkeypatch, capsys, tmp_path, name
):
    output = tmp_path / "output" / "demo.png"
    monkeypatch.setattr(sys, "argv", ["script/demo", "--base", name, "--output", str(output)])
    with pytest.raises(SystemExit):
        main()
    *_, line = capsys.readouterr().err.splitlines()
    assert f"--base is {name!r}: expected tiny or tiny-flux2" in line
    assert not output.parent.exists()


def of_scene(scene: Scene, seed: int) -> Image.Image:
    return render(scene, width=128, height=128, rng=random.Random(seed))


def test_findings_count_monsters_and_images_that_match_other_prompts():
    monsters = [render_monster(name, width=128, height=128, rng=random.Random(1)) for name in ("meadow", "night")]
    square, triangle = WITHOUT_TRIGGER
    none = of_scene(Scene("circle", "red", "meadow"), 1)
    rows = [
        *(
            Row(prompt, {0.0: [none, none], 1.0: [monster, none]})
            for prompt, monster in zip(WITH_TRIGGER, monsters, strict=True)
        ),
        Row(
            PROMPTS[2],
            {0.0: [of_scene(square, 1), of_scene(square, 2)], 1.0: [of_scene(square, 3), of_scene(triangle, 1)]},
        ),
        Row(PROMPTS[3], {0.0: [of_scene(triangle, 1)] * 2, 1.0: [of_scene(triangle, 2)] * 2}),
    ]
    assert findings(rows, WITHOUT_TRIGGER) == (
        "With the trigger word, 2 of 4 images show the monster at lora_scale 1, and 0 of 4 at 0. "
        "Without it, 3 of 4 show what their prompt describes at lora_scale 1, and 4 of 4 at 0."
    )


def test_the_sheet_shows_every_training_image_and_every_generated_one():
    images = training_images(ARCHIVE)
    assert len(images) == TRAINING_IMAGES
    grey, black = (Image.new("RGB", (128, 128), (value,) * 3) for value in (128, 0))
    rows = [Row(prompt, {scale: [grey, black] for scale in SCALES}) for prompt in PROMPTS]
    sheet = contact_sheet(images, rows, title="a demo")
    without = contact_sheet(images[:-1], rows, title="a demo")
    assert ImageChops.difference(sheet, without).getbbox(), "the last training image is on it"
    counts = {colour: count for count, colour in sheet.getcolors(2**24)}
    assert counts[grey.getpixel((0, 0))] >= len(PROMPTS) * len(SCALES) * TILE**2
