"""Builds the page from captions and pictures. Knows no files of the data set."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lora.captioning.answers import MAX_WORDS
from lora.dataset.captions import PromptRule, one_line
from lora.reporting.whole_page import whole_page

FOLDER = Path(__file__).parent
SCRIPTS = ("prompts.js", "zip.js", "replacing.js", "page.js")
SAVED = "captions.zip"
LETTERS_IN_A_ROW, FEWEST_ROWS, MOST_ROWS = 60, 3, 14  # of a text area in a browser that cannot fit it to its text


@dataclass(frozen=True, slots=True)
class EditedCaption:
    """An image on the page, with the caption that is to be edited."""

    name: str
    file: str  # of the caption: its path in the folder and in the zip that the page saves
    picture: str  # data URI
    text: str  # lines without control characters
    source: str  # who wrote the caption, or which file it is from
    by_model: bool
    prompts: tuple[str, ...]  # as trained

    @property
    def words(self) -> int:
        """How many words the caption has."""
        return len(self.text.split())

    @property
    def rows(self) -> int:
        """Of its text area."""
        return min(max(len(self.text) // LETTERS_IN_A_ROW + 1, FEWEST_ROWS), MOST_ROWS)


def editable(text: str) -> str:
    """A caption as lines without control characters and lone surrogates: a text area would change these, and a file
    cannot hold them. Its prompt stays the same."""
    return "\n".join(filter(None, map(one_line, text.splitlines())))


def caption_editor(captions: tuple[EditedCaption, ...], rule: PromptRule, *, describes_empty: bool) -> str:
    """The page as HTML, in which every text is escaped.

    `describes_empty` says whether a training asks a captioner for captions that are empty.
    """
    content = {
        "captions": captions,
        "rule": rule,
        "describes_empty": describes_empty,
        "most_words": MAX_WORDS,
        "saved": SAVED,
    }
    script = "\n".join(map(_asset, SCRIPTS))
    return whole_page(_asset("page.html"), content, style=_asset("page.css"), script=script)


@cache
def _asset(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
