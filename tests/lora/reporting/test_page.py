"""The report page: self-contained, the same for the same training, and safe whatever its texts are."""

import dataclasses
import html
import json
import re
import subprocess

import pytest

from lora.reporting.contents import FIXED, example_prompt
from lora.reporting.page import page_of, write_page
from tests.lora.reporting.reports import HOSTILE, RIGHT_TO_LEFT, some_contents

LOADS = re.compile(r"""(?:src|href|action|srcset)\s*=\s*["'](?!data:)|url\(""")


def text_of(page):
    """The page without styles, scripts and tags."""
    return re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)


def test_the_page_says_what_came_of_the_training_and_how_to_use_it(tmp_path):
    text = text_of(page_of(some_contents(tmp_path)))
    for part in (
        "The LoRA is from step 550 of 1000.",
        "0.5000 at step 0, 0.4000 at step 550",
        "held out for validation",
        "blurred",
        "worth a look",
        "1000 steps for 3 images",
        "FluxPipeline.from_pretrained",
        "ComfyUI/models/loras",
        "script/serve",
        "Licence: flux-1-dev-non-commercial-license",
    ):
        assert part in text


def test_the_trigger_word_is_in_the_examples(tmp_path):
    assert page_of(some_contents(tmp_path)).count("a photo of TOK") == 1, "diffusers has a program of its own"


def test_the_example_of_an_edit_sends_its_image_in_the_request(tmp_path):
    """A server refuses paths. The trigger word, which may be anything, stays text."""
    contents, word = some_contents(tmp_path), "`touch x` $(touch x)'\\nEND\\n"
    page = page_of(
        dataclasses.replace(contents, fixed=dataclasses.replace(contents.fixed, trigger_word=word, edits=True))
    )
    (program,) = re.findall(r"python3 - <<'END'.*?\nEND\n", html.unescape(page), flags=re.DOTALL)
    (tmp_path / "before.png").write_bytes(b"an image")
    command = re.sub(r"\| curl .*", "", program)
    printed = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True, text=True).stdout
    inputs = json.loads(printed)["input"]
    assert inputs["reference_images"] == ["data:image/png;base64,YW4gaW1hZ2U="]
    assert inputs["prompt"] == example_prompt(word, edits=True)
    assert not (tmp_path / "x").exists()


def test_the_same_contents_give_the_same_page(tmp_path):
    assert page_of(some_contents(tmp_path)) == page_of(some_contents(tmp_path))


def test_the_page_loads_nothing_from_elsewhere(tmp_path):
    page = page_of(some_contents(tmp_path))
    markup = re.sub(r"<(style|script)>.*?</\1>|<pre.*?</pre>", "", page, flags=re.DOTALL)
    assert not LOADS.search(markup)
    assert "default-src &#39;none&#39;" in markup


@pytest.mark.parametrize("prompt", [HOSTILE, RIGHT_TO_LEFT])
def test_texts_of_a_user_are_shown_and_never_become_markup(tmp_path, prompt):
    hostile, harmless = page_of(some_contents(tmp_path, prompt=prompt)), page_of(some_contents(tmp_path))
    assert hostile.count("<script>") == harmless.count("<script>") == 1
    assert hostile.count("<") == harmless.count("<")


def test_a_page_of_a_running_training_reloads_itself_and_a_final_one_does_not(tmp_path):
    assert 'http-equiv="refresh"' in page_of(some_contents(tmp_path, ended=False))
    assert 'http-equiv="refresh"' not in page_of(some_contents(tmp_path))


def test_a_page_of_a_training_that_ended_without_a_lora_says_so_and_does_not_reload_itself(tmp_path):
    page = page_of(dataclasses.replace(some_contents(tmp_path, ended=False), is_running=False))
    assert 'http-equiv="refresh"' not in page
    assert "The training ended after 1000 of 1000 steps, without a LoRA so far" in page


@pytest.mark.parametrize(("samples", "compared", "shown"), [(0, 0, 0), (1, 0, 2), (2, 2, 4), (5, 2, 10)])
def test_the_first_and_the_last_sample_are_compared_and_all_are_shown(tmp_path, samples, compared, shown):
    page = page_of(some_contents(tmp_path, samples=samples))
    assert page.count('type="range"') == compared
    assert len(re.findall(r'alt="(?:Before the training|At step)', page)) == shown


def test_a_training_without_any_step_has_a_page_without_a_chart(tmp_path):
    contents = dataclasses.replace(some_contents(tmp_path, samples=0, ended=False), points=(), validations=())
    assert "<svg" not in page_of(contents)


def test_what_is_known_before_the_first_step_survives_the_way_to_another_process(tmp_path):
    fixed = some_contents(tmp_path).fixed
    assert FIXED.validate_json(FIXED.dump_json(fixed)) == fixed


def test_a_page_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "report.html"
    write_page(some_contents(tmp_path, ended=False), path)
    before = path.read_text()
    broken = some_contents(tmp_path)
    broken.samples[0].path.unlink()
    with pytest.raises(OSError, match=r"42-0\.jpg"):
        write_page(broken, path)
    assert path.read_text() == before
    write_page(some_contents(tmp_path), path)
    assert "The LoRA is from step 550" in path.read_text()


def test_samples_of_another_prompt_with_the_same_seed_are_not_its_before_and_after(tmp_path):
    """A training may resume with other prompts."""
    contents = some_contents(tmp_path, samples=2)
    resumed = tuple(
        dataclasses.replace(each, prompt="another TOK" if each.step else each.prompt) for each in contents.samples
    )
    page = page_of(dataclasses.replace(contents, samples=resumed))
    assert page.count('type="range"') == 0
    assert page.count('class="alone"') == 4
