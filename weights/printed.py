"""Text from an untrusted file or response as an error repeats it: in quotes, on one line, safe in a terminal. Sizes."""

SHOWN = 60  # characters of a name
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
LONGEST_MESSAGE = 200  # characters of a library's message


def quoted(text: str) -> str:
    """Return a text in quotes and shortened; line breaks, escape codes and other invisible characters are escaped."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def message_of(error: Exception) -> str:
    """Return the message of a library, which may repeat parts of the file, on one line, shortened and printable."""
    line = " ".join(str(error).split())[:LONGEST_MESSAGE]
    return "".join(character if character.isprintable() else "?" for character in line)


def size_text(count: float) -> str:
    """Return a number of bytes in the largest unit of which it has at least one, such as 33.7 GB."""
    unit, name = next((each for each in UNITS if abs(count) >= each[0]), (1, "bytes"))
    return f"{count / unit:.{0 if unit == 1 else 1}f} {name}"
