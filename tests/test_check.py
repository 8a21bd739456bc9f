"""`script/check` in this process: what it prints, and what is on its contact sheet."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from bench.planted import blurred, faded, mirrored, photograph
from script import check, dataset_sheet
from script.progress import Progress
from script.sheet_text import sheet_font, wrapped
from tests.tiny import encoded, noisy_image, solid_image, write, zipped

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    "Latin": "Größe Łódź Việt",
    "Cyrillic": "Фотография",
    "Greek": "Ελληνικά",
    "Chinese": "一张照片繁體",
    "Japanese": "写真の犬カタカナ",
    "Korean": "한국어",
    "Arabic": "صورة",
    "Hebrew": "תמונה",
    "Devanagari": "तस्वीर",
    "Thai": "รูป",
    "emoji": "😀🐶",
    "symbols": "✓★→…•",
}


@pytest.fixture
def run_check(tmp_path, monkeypatch, capsys):
    """Runs it on a zip of these members; returns what it printed, and the sheet."""

    def run(members, *flags, resolution=64):
        archive, output = write(tmp_path / "images.zip", zipped(members)), tmp_path / "sheet.png"
        command = ["script/check", str(archive), "--resolution", str(resolution), "--output", str(output), *flags]
        monkeypatch.setattr(sys, "argv", command)
        check.main()
        with Image.open(output) as sheet:
            return capsys.readouterr(), sheet.convert("RGB")

    return run


def plain_images(count, *, side=64):
    return {f"{index:02}.png": encoded(noisy_image(side, side, seed=index)) for index in range(count)}


def faulty_images():
    photo = photograph("astronaut").resize((128, 128))
    return {
        "photo.png": encoded(photo),
        "mirrored.png": encoded(mirrored(photo)),
        "shaky.png": encoded(blurred(photograph("coffee").resize((176, 128)), 4, 0)),
        "black.png": encoded(solid_image(128, 128, color="black")),
        "scan.png": encoded(faded(photograph("camera").resize((128, 128)), 0.2)),
    }


def test_json_holds_the_report_and_the_outline_of_the_training(run_check):
    flags = "--json", "--steps", "170", "--batch-size", "2"
    printed, _ = run_check(plain_images(14, side=128) | faulty_images(), *flags, resolution=128)
    report = json.loads(printed.out)
    assert report["worth_a_look"] == {
        "photo.png": ["looks like mirrored.png"],
        "mirrored.png": ["looks like photo.png"],
        "shaky.png": ["blurred"],
        "black.png": ["black"],
        "scan.png": ["faded"],
    }
    training = report["training"]
    assert (training["images"], len(training["held_out"]), training["images_per_step"]) == (17, 2, 2)
    assert (training["steps"], training["steps_per_image"], training["sizes"]) == (170, 20.0, len(report["buckets"]))
    assert set(training["held_out"]) < {image["name"] for image in report["images"]}
    assert printed.err.startswith(f"wrote {report['sheet']}: all images")


def test_the_summary_says_how_often_an_image_is_seen_and_what_is_held_out(run_check):
    printed, _ = run_check(plain_images(12), "--steps", "22", "--batch-size", "2")
    assert printed.out.splitlines()[-4:-1] == [
        "training",
        "  11 images trained at 1 size, 1 image held out for validation",
        "  22 steps with 2 images each: every image is seen about 4 times",
    ]


def test_images_worth_a_look_are_shown_first_however_many_others_there_are(run_check, monkeypatch):
    monkeypatch.setattr(dataset_sheet, "MAX_IMAGES", 5)
    printed, sheet = run_check(plain_images(6) | {"zz.png": encoded(solid_image(64, 64, color=(250, 0, 0)))})
    assert printed.out.splitlines()[-1].endswith("5 of 7 images, those worth a look first, cropped as in training")
    red = (
        ImageChops.difference(sheet, Image.new("RGB", sheet.size, (250, 0, 0)))
        .convert("L")
        .point(lambda d: d < 2 and 255)
    )
    left, top, _, _ = red.getbbox()
    assert left < 270, "it is in the first column"
    assert top < 300, "and in the first row"


def test_the_sheet_and_the_summary_show_what_is_outside_of_a_mask(run_check):
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    members = {"1.png": encoded(solid_image(64, 64, color=(250, 0, 0))), "masks/1.png": encoded(mask)}
    style = "--lora-type", "style"  # without outlines of crops
    printed, sheet = run_check(members, *style)
    assert "1 of 1 image with a mask (1 file such as 'masks/1.png'): what is outside is white" in printed.out
    counts = {color: count for count, color in sheet.getcolors(2**24)}
    assert counts[250, 0, 0] == 32 * 64, "the half inside, as trained"
    original = run_check(members, *style, "--mask-background", "original")[1].getcolors(2**24)
    pale = [count for count, (red, green, blue) in original if red == green == blue and 195 < red < 210]
    assert max(pale) >= 32 * 64
    more = counts[255, 255, 255] - dict(map(reversed, original))[255, 255, 255]
    assert more >= 32 * 64 - 600, "white, as trained, but for other text on the sheet"
    _, whole = run_check(members, *style, "--unmasked-weight", "1")
    assert {color: count for count, color in whole.getcolors(2**24)}[250, 0, 0] == 64 * 64


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_font_of_the_sheet_has_the_letters_of(script):
    font = sheet_font(16)
    missing = bytes(font.getmask("\U0010fffd"))
    assert all(bytes(font.getmask(letter)) != missing for letter in SCRIPTS[script])


@pytest.mark.parametrize("text", ["one two three four five six", "写真の犬" * 9, "x" * 90, " spaces \n around ", ""])
def test_wrapped_text_keeps_all_letters_and_the_width(text):
    font = sheet_font(13)
    lines = wrapped(text, font, width=100, most=99)
    assert "".join(lines).replace(" ", "") == "".join(text.split())
    assert all(font.getlength(line) <= 100 for line in lines)


def test_text_that_is_too_long_ends_with_an_ellipsis():
    font = sheet_font(13)
    lines = wrapped("a caption of many words " * 9, font, width=100, most=2)
    assert (len(lines), lines[-1][-1]) == (2, "…")
    assert font.getlength(lines[-1]) <= 100


def test_progress_is_reported_after_a_while_only(capsys, monkeypatch):
    progress = Progress("inspected {count} images")
    progress.add()
    assert capsys.readouterr().err == ""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    progress.add()
    progress.add()
    assert capsys.readouterr().err == "inspected 2 images\n"


def test_ctrl_c_ends_a_command_at_once_with_130_and_without_a_traceback(tmp_path):
    (tmp_path / "waiting.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-m", "script.interruptible", "waiting"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read() == "interrupted\n"
