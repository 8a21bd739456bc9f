"""Text from an untrusted file or response as an error repeats it: in quotes, on one line, safe in a terminal."""

SHOWN = 60  # characters of a name
LONGEST_MESSAGE = 200  # characters of a library's message


def quoted(text: str) -> str:
    """Return a text in quotes and shortened; line breaks, escape codes and other invisible characters are escaped."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def message_of(error: Exception) -> str:
    """Return the message of a library, which may repeat parts of the file, on one line, shortened and printable."""
    line = " ".join(str(error).split())[:LONGEST_MESSAGE]
    return "".join(character if character.isprintable() else "?" for character in line)
