"""What the commands of the documentation write has names that do not collide, and is ignored by git."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
# In a block of code or between backticks, with the comment that follows
COMMAND = re.compile(r"(?:^ *|`)((?:cog (?:train|run)|script/|hf download)[^`\n]*)", re.MULTILINE)
OPTION = re.compile(r"(?:-o|--output|--local-dir)[ =](\S+)")
PATH = re.compile(r"(?<![\w.])[\w./-]+\.(?:png|tar|safetensors|json|jsonl|webp)\b")


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the documentation; `#` divides it from its comment."""

    text: str
    comment: str

    @property
    def named(self) -> list[str]:
        """The outputs that its options name."""
        return OPTION.findall(self.text)

    @property
    def written(self) -> list[str]:
        """The files and folders that it writes, by its options and its comment. `cog run` numbers its images."""
        images = self.text.startswith("cog run")
        return [f"{name}.0.webp" if images else name for name in self.named] + PATH.findall(self.comment)


def commands() -> list[Command]:
    found = (each for page in PAGES for each in COMMAND.findall(page.read_text()))
    return [Command(text.strip(), comment) for text, _, comment in (each.partition("#") for each in found)]


COMMANDS = commands()
WRITTEN = sorted({path for command in COMMANDS for path in command.written} - {"NAME.tar"})
COG = sorted({command.text for command in COMMANDS if command.text.startswith("cog ") and " -i " in command.text})


def test_the_commands_are_found():
    assert {"output/demo.png", "check.png", "out.json", "image.0.webp", "trained_model.tar"} < set(WRITTEN)
    assert {"trained_model.safetensors", "weights/dev", "results.jsonl"} < set(WRITTEN)
    assert len(COG) >= 3


@pytest.mark.parametrize("path", [*WRITTEN, "output.0.webp", "output.json", "weights/output"])
def test_git_ignores_what_a_documented_command_writes(path: str):
    """And what Cog writes without `-o`."""
    run = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", path], cwd=ROOT, check=False)
    assert run.returncode == 0


@pytest.mark.parametrize("command", COG)
def test_a_cog_command_names_an_output_that_is_the_folder_of_no_other_command(command: str):
    (output,) = OPTION.findall(command)
    folders = {path.partition("/")[0] for path in WRITTEN if "/" in path}
    assert output not in folders | {"output", "weights"}


def test_git_ignores_no_tracked_file():
    tracked = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(tracked, cwd=ROOT, check=True, capture_output=True, text=True).stdout == ""
