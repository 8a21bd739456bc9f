"""What `script/space` uploads starts in an empty folder, and its page generates in a browser, without another host."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import save_file

from lora.images.metadata import settings_in
from script import space
from script.cog_server import free_port
from tests.browsers import WIDTHS
from tests.fake_hub import WRITE, Repository, fake_hub
from tests.servers import wait_until
from tests.tiny import random_lora, tiny_pipeline, write

CARD = b"---\ninstance_prompt: TOK\nwidget:\n- text: TOK on a beach\n---\n"
RESULT = "document.querySelector('#result').innerText"
IMAGES = "[...document.querySelectorAll('#images img')].map(image => [image.naturalWidth, image.src])"
SECONDS_TO_START, MILLISECONDS = 240, 120_000


@dataclass(frozen=True, slots=True)
class RunningSpace:
    """The page of a Space, started as Hugging Face does."""

    url: str
    log: Path


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory):
    """A folder with only the files that the command uploads."""
    folder = tmp_path_factory.mktemp("space")
    with fake_hub() as hub, pytest.MonkeyPatch.context() as patch:
        hub.repositories["me/my-lora"] = Repository(is_private=False, files={"README.md": CARD})
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_TOKEN", WRITE)
        patch.setattr(sys, "argv", ["script/space", "me/my-lora", "--base", "tiny"])
        space.main()
        made = hub.repositories["spaces/me/my-lora-demo"]
    assert (made.variables, made.hardware) == ({"LORA": "hf://me/my-lora", "FLUX_BASE": "tiny"}, "cpu-basic")
    for name, content in made.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, content)
    return folder


@pytest.fixture(scope="module")
def running(uploaded, tmp_path_factory):
    """The page, with a LoRA of this machine, as its process can reach no Hub."""
    lora, port = tmp_path_factory.mktemp("lora"), free_port()
    save_file(random_lora(tiny_pipeline().transformer, spread=0.1), lora / "lora.safetensors")
    write(lora / "README.md", CARD)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "FLUX_LORA_FILES")},
        **{"FLUX_BASE": "tiny", "FLUX_SAFETY": "off", "LORA": str(lora), "GRADIO_SERVER_PORT": str(port)},
        **{"TMPDIR": str(tmp_path_factory.mktemp("t")), "HF_TOKEN": WRITE},
    }
    log = lora / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "app.py"], cwd=uploaded, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_until(lambda: process.poll() is not None or "Running on" in log.read_text(), seconds=SECONDS_TO_START)
            assert process.poll() is None, log.read_text()
            yield RunningSpace(f"http://127.0.0.1:{port}", log)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def opened(running, browser):
    """The page in a browser, with what it asked for and printed."""
    page, requests, lines = browser.new_page(), [], []
    page.set_default_timeout(MILLISECONDS)
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: lines.append(message.text))
    page.on("pageerror", lambda error: lines.append(str(error)))
    page.goto(running.url)
    page.get_by_role("button", name="More settings").click()
    yield page, requests, lines
    page.close()


def generate(page, *, steps, until):
    """Click until that has an effect: for a moment, a page that has just shown a result still counts as busy."""
    page.get_by_label("number input for Steps").fill(str(steps))
    before = page.evaluate(RESULT)

    def has_begun():
        page.get_by_role("button", name="Generate").click()
        page.wait_for_timeout(500)
        return page.evaluate(RESULT) != before

    wait_until(has_begun, seconds=60)
    page.wait_for_function(f"{RESULT}.includes({until!r})")


def test_a_visitor_sees_the_same_image_without_and_with_the_lora_and_its_settings(running, opened, tmp_path):
    page, requests, lines = opened
    page.get_by_text("TOK on a beach").click()
    page.get_by_label("Random seed").uncheck()
    page.get_by_label("Seed", exact=True).fill("7")
    generate(page, steps=2, until="Seed 7 · Strength 1 · Steps 2")
    assert "TOK on a beach" in page.inner_text("#result")
    page.wait_for_function(f"{IMAGES}.filter(([width]) => width === 128).length === 2")
    files = [write(tmp_path / str(n), page.request.get(src).body()) for n, (_, src) in enumerate(page.evaluate(IMAGES))]
    by_lora = {bool(settings["loras"]): settings["seed"] for settings in map(settings_in, files)}
    assert by_lora == {False: 7, True: 7}
    assert not [url for url in requests if not url.startswith((running.url, "data:", "blob:"))]
    assert lines == []


def test_a_running_generation_can_be_cancelled_and_the_next_one_works(opened):
    page, _, _ = opened
    generate(page, steps=50, until="of 50")
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_function(f"{RESULT} === 'Cancelled.'")
    generate(page, steps=3, until="Steps 3")


def test_an_error_is_a_message_without_a_traceback(running, opened):
    page, _, _ = opened
    page.get_by_label("Prompt").first.fill("x" * 10_001)
    page.get_by_role("button", name="Generate").click()
    assert "prompt has 10001 characters: expected at most 10000" in page.locator(".toast-body").inner_text()
    assert "Traceback" not in running.log.read_text()
    assert WRITE not in running.log.read_text()


def test_a_phone_shows_it_without_scrolling_sideways(opened):
    page, _, _ = opened
    page.set_viewport_size({"width": 400, "height": 800})
    content, screen = page.evaluate(WIDTHS)
    assert content <= screen
    assert page.get_by_role("button", name="Generate").is_visible()
