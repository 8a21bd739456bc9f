"""The report before a training covers everything that will be trained."""

import json

from lora.dataset.captions import PromptRule
from lora.dataset.report import report_on
from tests.tiny import encoded, noisy_image, read_archive, write, zipped

RULE = PromptRule("TOK", "", "")


def make_report(tmp_path, members, *, resolutions=(64, 96)):
    found = read_archive(
        write(tmp_path / "images.zip", zipped(members)), into=tmp_path / "into", resolutions=resolutions
    )
    return report_on(found.dataset, rule=RULE, resolutions=resolutions)


def images(count):
    return {f"{index}.png": encoded(noisy_image(96, 96, seed=index)) for index in range(count)}


def test_a_report_counts_images_captions_and_their_sources(tmp_path):
    members = images(6) | {
        "0.txt": "TOK 0",
        "1.txt": "TOK 1",
        "2.caption": "TOK 2",
        "captions.json": '{"3.png": "TOK 3"}',
    }
    first = make_report(tmp_path, members).as_text().splitlines()[0]
    assert first == "6 images, 4 with a caption: 2 from .txt files, 1 from .caption files, 1 from captions.json"


def test_a_report_lists_the_sizes_with_their_number_of_images(tmp_path):
    lines = make_report(tmp_path, images(6)).as_text().splitlines()
    assert lines[1:4] == ["sizes in training", "  64x64: 6 images", "  96x96: 6 images"]


def test_a_report_quotes_three_prompts(tmp_path):
    captions = {f"{index}.txt": f"number {index}\nof [trigger]" for index in range(6)}
    report = make_report(tmp_path, images(6) | captions)
    assert report.prompts == ("number 0 of TOK", "number 3 of TOK", "number 5 of TOK")
    assert all(f"  {prompt}" in report.as_text().splitlines() for prompt in report.prompts)


def test_a_report_lists_a_limited_number_of_skipped_files(tmp_path):
    lines = make_report(tmp_path, images(9) | {f"{index}.pdf": b"%PDF" for index in range(8)}).as_text().splitlines()
    assert "  '4.pdf': neither an image nor a caption" in lines
    assert "  and 3 more" in lines


def test_a_report_lists_images_that_look_the_same(tmp_path):
    large = noisy_image(8, 8, seed=7).resize((256, 256))
    members = images(5) | {"large.png": encoded(large), "small.jpg": encoded(large.resize((96, 96)), "JPEG")}
    report = make_report(tmp_path, members)
    assert report.look_alikes == (("large.png", "small.jpg"),)
    assert any("'large.png', 'small.jpg'" in warning for warning in report.warnings)
    assert report.worth_a_look["large.png"] == ("looks like small.jpg", "blurred")
    assert report.worth_a_look["small.jpg"][0] == "looks like large.png"


def test_a_report_as_json_contains_every_image_and_its_prompt(tmp_path):
    report = json.loads(json.dumps(make_report(tmp_path, images(2) | {"0.txt": "é"}).as_json()))
    assert report["images"][0] | {"sha256": "", "tones": 0} == {
        "name": "0.png",
        "sha256": "",
        "size": "96x96",
        "trained_at": ["64x64", "96x96"],
        "caption_from": "0.txt",
        "prompt": "TOK é",
        "other_prompts": [],
        "mask": None,
        "blur": None,  # noise has no edges
        "tones": 0,
    }
    assert report["buckets"] == {"64x64": 2, "96x96": 2}


def test_the_report_on_a_good_data_set_has_no_warnings(tmp_path):
    captions = {f"{index}.txt": f"TOK at place {index}" for index in range(6)}
    assert make_report(tmp_path, images(6) | captions).warnings == ()
