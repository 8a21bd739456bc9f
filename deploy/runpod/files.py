"""The files of a job: a data URI, or an https URL, which is downloaded under the rules for LoRAs. Knows no input."""

import mimetypes
import shutil
from pathlib import Path

from weights.data_uri import decode_data_uri, is_data_uri
from weights.network.client import HttpRequest
from weights.network.download import RemoteFile, download
from weights.network.network import Network

INTERNET = Network()
SPARE_BYTES = 256 * 2**20  # of the disk, for what else is written there


def received(name: str, value: str, *, into: Path, network: Network = INTERNET) -> str:
    """Return the path of the file that a job gives as the input `name`; any other text than a data URI or a URL is
    returned as it is.

    Raises ValueError with one sentence if the file cannot be had, and OSError with one if there is no room for it.
    """
    text = value.strip()
    if is_data_uri(text):
        path = into / f"{name}{_suffix(text)}"
        path.write_bytes(_decoded(name, text))
        return str(path)
    if text.lower().startswith(("https://", "http://")):
        path = into / name
        remote = RemoteFile(HttpRequest(text), noun="a file")
        try:
            download(remote, path, lambda size: _check_room(name, size, into), network)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error
        return str(path)
    return value


def _decoded(name: str, uri: str) -> bytes:
    try:
        return decode_data_uri(uri)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error


def _suffix(uri: str) -> str:
    media_type = uri.partition(":")[2].partition(";")[0]
    return mimetypes.guess_extension(media_type) or ""


def _check_room(name: str, size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + SPARE_BYTES:
        found = f"{name} needs {size / 1e6:,.0f} MB, and the disk of this worker has {free / 1e6:,.0f} MB left"
        raise OSError(f"{found}: expected a larger container disk")
