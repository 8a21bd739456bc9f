"""Upload the LoRA of an earlier training to Hugging Face, with its model card, sample images and report.

The token is that of HF_TOKEN or of `hf auth login`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from huggingface_hub import get_token

from lora.publishing.hub import HubTarget, check_repository, check_token, open_repository
from lora.training.publishing import upload_tar
from lora.training.result.publication import read_publication

REPOSITORY, TOKEN = "repository", "the token of HF_TOKEN or `hf auth login`"
INTERRUPTED = 130  # 128 + SIGINT, as a shell has it


def main() -> None:
    """Parse the arguments, check the tar and the repository, and upload."""
    parser = argparse.ArgumentParser(prog="script/publish", description=__doc__)
    parser.add_argument("tar", metavar="trained_model.tar", type=Path, help="the tar of a training")
    parser.add_argument(REPOSITORY, metavar="me/my-lora", help="owner/name on Hugging Face; created if it is missing")
    parser.add_argument("--public", action="store_true", help="create a public repository; by default it is private")
    parser.add_argument(
        "--with-captions",
        action="store_true",
        help="upload all of the tar: captions, and names and thumbnails of the training images, too",
    )
    arguments = parser.parse_args()
    try:
        target = _target(arguments.repository, is_private=not arguments.public)
        _publish(arguments.tar, target, with_captions=arguments.with_captions)
    except KeyboardInterrupt:
        print("stopped; nothing was uploaded, or the upload had just ended", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _target(repository: str, *, is_private: bool) -> HubTarget:
    name, token = check_repository(REPOSITORY, repository), get_token()
    if not name:
        raise ValueError(f"{REPOSITORY} is empty: expected owner/name on Hugging Face, such as me/my-lora")
    if not token:
        raise ValueError(f"{TOKEN} is missing: expected one with write access to {name}")
    return HubTarget(name, check_token(TOKEN, token), is_private, named=REPOSITORY, token_named=TOKEN)


def _publish(tar: Path, target: HubTarget, *, with_captions: bool) -> None:
    try:
        read_publication(tar)  # before a repository is created
    except ValueError as error:
        raise ValueError(f"{tar} {error}") from error
    except OSError as error:
        raise OSError(f"{tar} cannot be read ({error.strerror}): expected the tar of a training") from error
    print(open_repository(target), flush=True)
    with tempfile.TemporaryDirectory(prefix="flux-lora-publish-") as folder:
        url = upload_tar(tar, target, into=Path(folder) / "hub", with_captions=with_captions, interrupted=lambda: None)
    print(f"uploaded to {url}")


if __name__ == "__main__":
    main()
