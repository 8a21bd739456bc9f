"""Which files of a folder `.dockerignore` lets into a Docker build, by the rules of moby/patternmatcher.

https://docs.docker.com/build/concepts/context/#dockerignore-files: the last pattern that matches a path or a folder
above it decides, but for what `is_let_in` says; `!` lets in; `*` and `?` match within one name, `**`
any number of folders.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILE = ".dockerignore"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A line of the file: what it matches, and whether that goes in."""

    matches: re.Pattern[str]
    lets_in: bool
    first: re.Pattern[str]  # what the first part of a path that matches is


def files_in_context(root: Path, *, rules: str = FILE, follow_links: bool = False) -> set[str]:
    """The paths, relative to the root, of all files that a build of this folder sees by the file `rules`.

    Docker does not follow links to folders; `follow_links` does.
    """
    patterns = parsed((root / rules).read_text(encoding="utf-8"))
    return {file for file in _files(root, patterns, follow_links=follow_links) if is_let_in(file, patterns)}


def _files(root: Path, patterns: list[Pattern], *, follow_links: bool) -> Iterator[str]:
    """All files but those in a folder of the root, such as an environment, that is out with all that is in it."""
    for folder, folders, files in os.walk(root, followlinks=follow_links):
        where = Path(folder).relative_to(root)
        if folder == str(root):
            folders[:] = [name for name in folders if _may_let_in(name, patterns)]
        yield from ((where / name).as_posix() for name in files)


def _may_let_in(name: str, patterns: list[Pattern]) -> bool:
    lets_in = any(pattern.lets_in and pattern.first.fullmatch(name) for pattern in patterns)
    return lets_in or is_let_in(name, patterns)


def is_let_in(file: str, patterns: list[Pattern]) -> bool:
    """Whether a file goes in, as `PatternMatcher.MatchesUsingParentResults` decides it.

    A pattern is not tried where it would change nothing, so one that excludes a folder that is out anyway does not
    count for the files in it.
    """
    parts, is_out = file.split("/"), False
    matched_above = [False] * len(patterns)
    for count in range(len(parts)):
        is_out, matched = False, []
        for pattern, inherited in zip(patterns, matched_above, strict=True):
            would_change = pattern.lets_in == is_out
            matches = pattern.matches.fullmatch("/".join(parts[: count + 1])) is not None
            matched.append(inherited or (would_change and matches))
            is_out = not pattern.lets_in if matched[-1] else is_out
        matched_above = matched
    return not is_out


def parsed(text: str) -> list[Pattern]:
    """The patterns of a file. A comment is a line that starts with `#`; there is none after a pattern."""
    lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]
    return [_pattern(line) for line in lines if line]


def _pattern(line: str) -> Pattern:
    lets_in = line.startswith("!")
    cleaned = posixpath.normpath(line.removeprefix("!").strip()).lstrip("/")
    return Pattern(_compiled(cleaned), lets_in, _compiled(cleaned.partition("/")[0]))


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(map(_expression, re.findall(r"\*\*/?|\[[^]]*\]|.", pattern))))


def _expression(token: str) -> str:
    wildcards = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if token.startswith("["):
        return token
    return wildcards.get(token, re.escape(token))
