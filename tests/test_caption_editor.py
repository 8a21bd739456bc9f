"""The page in which captions are edited, in a real browser: what it says and changes, and the zip that it saves."""

import random
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora.dataset.captions import PromptRule
from lora.reporting.pictures import data_uri, thumbnail
from script.caption_editor.page import EditedCaption, caption_editor
from script.caption_folder import write_captions
from tests.browsers import WIDTHS, Opened
from tests.tiny import encoded, noisy_image, read_archive, solid_image, write, zipped

RULE = PromptRule("TOK", "", "")
HOSTILE = {
    "a.png": "</textarea><script>console.log('run')</script> \"quoted\" 'and' &amp; {{ 7 * 7 }} $& $1 \\",
    "a.jpg": "the same stem",
    "x/a.png": "two\nlines of a caption\nin a folder",
    "x/<script>console.log(1)</script>.png": "\u05ea\u05de\u05d5\u05e0\u05d4 \u202eof 🚀 TOK 👩\u200d🚀 cafe\u0301",
    "100% 'of' #1 & \u05e9\u05dd.png": "word " * 800,
    "none.png": "",
}
KEPT = {name: " ".join(text.split()).replace("e\u0301", "é") for name, text in HOSTILE.items()}
WORDS = (
    "TOK tok TOKYO [trigger] [[TRIGGER]] [tr\u0131gger] [tri gger] a dog ( , ! ; : . - _ $& \\ 小明 在 แมว"
    " кот \u041a\u041e\u0422 i\u0307 \u0130 \u0131 I\u0130 I \u017f ß \u1e9e e\u0301 é É 𐐀 𐐨 🦊 ٣"
)
PIECES = (*WORDS.split(), "photo of", " ", "  ", "\n", "\u00a0", "\ufeff", "\x07", "\u2028", "👩\u200d🚀")
HARD = {
    ("TOK", "a photo of", ", film"): ["a dog, film", "a photo of a dog, film", "a photo of, film", "a film", ""],
    ("TOK", "a photo of TOK", "of TOK"): ["a photo of TOK", "", "a photo of TOK,,; of TOK"],
}
TRIGGERS = ("", "TOK", "!", "red fox", "(", "\u0131i", "小明", "кот", "a\\1b", "trigger", "Straße", "é", "𐐀", "s")
NAMES = "each => each.map(one => one.ariaLabel || one.labels[0]?.textContent.trim() || one.textContent.trim())"
SHARE_WITH_AFFIXES = 0.6
SECONDS_TO_TYPE = 3.0  # 20 letters, on a computer that is busy with other tests


@dataclass
class Editor:
    """An open page, and where it is."""

    opened: Opened
    folder: Path

    def type(self, place: int, text: str) -> None:
        """Replace a caption as a whole."""
        self.opened.page.locator("textarea").nth(place).fill(text)

    def replace(self, search: str, replacement: str) -> None:
        """Replace a text in all captions."""
        self.opened.page.fill("#search", search)
        self.opened.page.fill("#replacement", replacement)
        self.opened.page.click("#replace")

    def texts(self) -> list[str]:
        """All captions."""
        return self.opened.page.locator("textarea").evaluate_all("areas => areas.map(area => area.value)")

    def show(self, kind: str) -> list[str]:
        """Choose what is shown; returns the names of the images."""
        self.opened.page.locator(".chip", has_text=kind).click()
        return self.opened.page.locator("article:not([hidden]) h2").all_text_contents()

    def says(self, name: str) -> str:
        """The text of an element."""
        return self.opened.page.inner_text(f"#{name}")

    def facts(self, place: int) -> list[str]:
        """What is said about a caption: its words, what is the matter with it, and whether it was changed."""
        parts = self.opened.page.locator("article").nth(place).locator(".words, .flag, .changed")
        return [part for part in parts.all_text_contents() if part]

    def saved(self, *, click: str = "#save") -> Path:
        """Save the zip, and return its path."""
        with self.opened.page.expect_download() as download:
            self.opened.page.click(click) if click else self.opened.page.keyboard.press("Control+s")
        assert download.value.suggested_filename == "captions.zip"
        path = self.folder / f"saved-{random.random()}.zip"
        download.value.save_as(path)
        return path


@pytest.fixture
def edit(tmp_path, browser):
    """Opens a page with captions by the names of their images; `by_model` are those that a captioner wrote."""

    def opened(
        captions: dict[str, str], *, rule: PromptRule = RULE, by_model: tuple[str, ...] = (), **options
    ) -> Editor:
        picture = data_uri(thumbnail(solid_image()))
        edited = (
            EditedCaption(name, f"{name}.txt", picture, text, "from a test", name in by_model, rule.prompts(text))
            for name, text in captions.items()
        )
        page = caption_editor(tuple(edited), rule, describes_empty=True)
        return Editor(Opened(browser, write(tmp_path / "index.html", page.encode()), **options), tmp_path)

    return opened


def test_the_zip_has_every_caption_for_its_image_however_hostile(tmp_path, browser):
    images = {
        name: encoded(noisy_image(64, 64, seed=seed), name[-3:].replace("jpg", "jpeg"))
        for seed, name in enumerate(HOSTILE)
    }
    rows = [
        f'"{name.replace(chr(34), chr(34) * 2)}","{text.replace(chr(34), chr(34) * 2)}"'
        for name, text in HOSTILE.items()
    ]
    members = images | {"captions.csv": "\n".join(["file_name,text", *rows])}
    archive = write(tmp_path / "images.zip", zipped(members))
    read = read_archive(archive, into=tmp_path / "into")
    write_captions(read.dataset, read.inspector, tmp_path / "out", RULE, describes_empty=True)
    editor = Editor(Opened(browser, tmp_path / "out" / "index.html"), tmp_path)
    page = editor.opened.page
    assert page.evaluate("[...document.images].map(image => image.naturalWidth > 0)") == [True] * len(HOSTILE)
    before = dict(zip(page.locator("h2").all_text_contents(), page.locator(".prompt").all_text_contents(), strict=True))
    assert before == {image.name: image.prompts[0] for image in read.dataset.images}
    assert set(before) == set(HOSTILE)

    place = list(before).index("none.png")
    editor.type(place, "by hand\n<b> 猫")
    zipped_captions = editor.saved()
    shown = page.locator(".prompt").all_text_contents()
    assert (editor.opened.lines, [url for url in editor.opened.asked_for if not url.startswith("blob:")]) == ([], [])

    with zipfile.ZipFile(zipped_captions) as saved:
        assert saved.testzip() is None
        assert len(saved.namelist()) == len(HOSTILE)
    again = read_archive(archive, into=tmp_path / "again", captions=zipped_captions).dataset
    assert [image.prompts[0] for image in again.images] == shown
    texts = {image.name: " ".join(image.caption.text.split()) for image in again.images}
    assert texts == {name: " ".join(text.split()) for name, text in KEPT.items()} | {"none.png": "by hand <b> 猫"}
    assert all(image.caption.source in saved.namelist() for image in again.images)


def test_prompts_are_those_of_the_training(edit):
    rng = random.Random(0)
    pieced = iter(lambda: "".join(rng.choices(PIECES, k=rng.randrange(7))), None)
    affixes = iter(lambda: " ".join(next(pieced).split()) if rng.random() < SHARE_WITH_AFFIXES else "", None)
    rules = [(trigger, next(affixes), next(affixes)) for trigger in TRIGGERS]
    cases = [(rule, [next(pieced) for _ in range(80)]) for rule in rules]
    cases += HARD.items()
    made = edit({"a.png": ""}).opened.page.evaluate(
        "cases => cases.map(([rule, captions]) => captions.map(promptRule(...rule)))", cases
    )
    for (rule, captions), prompts in zip(cases, made, strict=True):
        expected = map(PromptRule(*rule).prompt, captions)
        wrong = [each for each in zip(captions, prompts, expected, strict=True) if each[1] != each[2]]
        assert wrong == [], rule


def test_lines_that_take_turns_have_a_prompt_each(edit):
    rule = PromptRule("TOK", "", "", multiline_split=True)
    editor = edit({"a.png": "one\ntwo"}, rule=rule)
    prompt = editor.opened.page.locator(".prompt").first
    for caption in ("one\ntwo", "one\n \n[trigger] three\none", "one\u2028two\x0bthree\x85 \x07\nfour", ""):
        editor.type(0, caption)
        assert prompt.text_content() == " | ".join(rule.prompts(caption))


def test_words_and_the_prompt_with_its_trigger_word_follow_what_is_typed(edit):
    rule = PromptRule("TOK", "a photo of", ", film")
    editor = edit({"a.png": "one", "b.png": "two words"}, rule=rule)
    page = editor.opened.page
    assert editor.says("total") == "3 words in 2 captions"
    editor.type(0, "two tokens, tok and\nTOK")
    assert (editor.facts(0), editor.says("total")) == (["5 words", "changed"], "7 words in 2 captions")
    assert page.locator(".prompt").first.text_content() == "a photo of two tokens, tok and TOK, film"
    assert page.locator(".prompt").first.locator("mark").all_text_contents() == ["tok", "TOK"]
    editor.type(0, "word " * 101)
    assert editor.facts(0) == ["101 words", "over 100 words", "changed"]
    editor.type(0, " ")
    assert editor.facts(0) == ["0 words", "empty", "changed"]
    assert (
        page.locator(".trained").first.inner_text()
        == "trained as: a photo of TOK, film, unless a captioner describes it"
    )
    editor.type(0, "one")
    assert editor.facts(0) == ["1 word"]


def test_a_text_is_replaced_everywhere_and_that_is_undone(edit):
    captions = {"a.png": "a Cat (1) and a cat (1)", "b.png": "CAT", "c.png": "a dog"}
    editor = edit(captions)
    editor.opened.page.fill("#search", "cat")
    assert editor.says("found") == "3 places in 2 captions"
    editor.opened.page.check("#matches-case")
    assert editor.says("found") == "1 place in 1 caption"
    editor.opened.page.uncheck("#matches-case")
    editor.replace("CAT", "$& lion")
    assert editor.texts() == ["a $& lion (1) and a $& lion (1)", "$& lion", "a dog"]
    assert editor.says("status") == "Replaced 3 times in 2 captions."
    editor.replace("(1)", "")
    assert editor.texts()[0] == "a $& lion  and a $& lion"
    editor.opened.page.click("#undo")
    editor.type(1, "mine")
    editor.opened.page.click("#undo")
    assert editor.texts() == [captions["a.png"], "mine", "a dog"]
    assert editor.says("status") == "Undone in 1 caption; 1 edited since, so left."
    assert editor.opened.page.is_disabled("#undo")


def test_captions_are_shown_by_kind_and_stay_while_they_are_edited(edit):
    captions = {"a.png": "", "b.png": "by a captioner", "c.png": "word " * 101, "d.png": "a cat"}
    editor = edit(captions, by_model=("b.png",))
    assert editor.show("Empty") == ["a.png"]
    editor.type(0, "no longer")
    assert editor.opened.page.is_visible("#caption-1")
    assert editor.show("By a model") == ["b.png"]
    assert editor.show("Over 100 words") == ["c.png"]
    assert editor.show("Changed") == ["a.png"]
    assert editor.show("Empty") == []
    assert editor.says("none") == "No caption is like that."
    editor.show("Found")
    editor.opened.page.fill("#search", "A CA")
    assert editor.show("Found") == ["b.png", "d.png"]
    assert editor.show("All") == list(captions)


def test_leaving_warns_of_what_is_not_saved(edit):
    editor = edit({"a.png": "one", "b.png": ""})
    asked = []
    editor.opened.page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    editor.type(1, "two")
    assert editor.says("unsaved") == "1 not saved"
    editor.opened.page.reload()
    assert asked == ["beforeunload"]
    assert editor.texts() == ["one", ""], "nothing looks as if it was kept"
    editor.type(1, "two")
    with zipfile.ZipFile(editor.saved(click="")) as saved:
        assert {name: saved.read(name) for name in saved.namelist()} == {"a.png.txt": b"one\n", "b.png.txt": b"two\n"}
    assert (editor.says("unsaved"), editor.facts(1)) == ("", ["1 word", "changed"])
    editor.opened.page.reload()
    assert asked == ["beforeunload"]


def test_a_phone_shows_the_editor_without_scrolling_sideways_in_light_and_dark(edit):
    page = edit({"TOK" * 60 + ".png": "TOK" * 60}, viewport={"width": 360, "height": 740}).opened.page
    content, screen = page.evaluate(WIDTHS)
    assert content <= screen
    for scheme, color in {"light": "rgb(251, 250, 247)", "dark": "rgb(22, 22, 26)"}.items():
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == color


def test_every_control_has_a_name_for_a_screen_reader_and_the_tab_key_leads_from_caption_to_caption(edit):
    page = edit({"a.png": "one", "b.png": ""}).opened.page
    assert page.get_by_role("textbox", name="b.png", exact=True).count() == 1
    for role in ("textbox", "button", "checkbox", "radio"):
        names = page.get_by_role(role).evaluate_all(NAMES)
        assert all(names), (role, names)
        assert len(set(names)) == len(names) > 0
    page.focus("#caption-1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "caption-2"


def test_three_hundred_captions_can_be_typed_in_and_replaced_without_waiting(edit):
    editor = edit({f"{number}.png": "a photo of a cat on a mat " * 8 for number in range(300)})
    seconds = editor.opened.page.evaluate("""() => {
        const area = document.querySelectorAll("textarea")[150], began = performance.now();
        for (let letter = 0; letter < 20; letter++) {
            area.value += "x";
            area.dispatchEvent(new Event("input"));
            area.getBoundingClientRect();
        }
        return (performance.now() - began) / 1000;
    }""")
    assert seconds < SECONDS_TO_TYPE
    editor.replace("cat", "dog")
    assert editor.says("status") == "Replaced 2,400 times in 300 captions."
