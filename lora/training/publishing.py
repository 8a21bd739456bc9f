"""The upload of a training to Hugging Face: checked before anything is loaded, and never a reason to lose a LoRA."""

import shutil
from pathlib import Path

from lora.publishing.hub import HubTarget, Interrupted, Patience, UploadError, check_token, open_repository, upload
from lora.training.progress import Log
from lora.training.recipe.public_trainer import PublicTrainerInputs
from lora.training.result.publication import read_publication, write_publication

REPOSITORY, TOKEN = "hf_repo_id", "hf_token"  # inputs
FOLDER = "hub"


def open_hub(inputs: PublicTrainerInputs, log: Log) -> HubTarget | None:
    """Create and check the repository that the inputs name, and return it; None if they name none.

    Raises ValueError with one sentence if it cannot be written to, and OSError with one if Hugging Face cannot be
    reached.
    """
    if not inputs.hf_repo_id:
        return None
    if not inputs.hf_token:
        raise ValueError(
            f"{TOKEN} is missing: expected a token with write access to {inputs.hf_repo_id}, which {REPOSITORY} names;"
            " make one at https://huggingface.co/settings/tokens"
        )
    token = check_token(TOKEN, inputs.hf_token)
    target = HubTarget(inputs.hf_repo_id, token, inputs.hf_private, named=REPOSITORY, token_named=TOKEN)
    try:
        log.write(open_repository(target))
    except ValueError:
        raise
    except OSError as error:
        raise OSError(f"{error}, or train without {REPOSITORY}") from error
    return target


def publish(tar: Path, target: HubTarget | None, *, into: Path, log: Log, interrupted: Interrupted) -> None:
    """Upload what is public in the tar of a training, if there is a target. A failed upload is logged with the command
    that does it later."""
    if target is None:
        return
    log.write(f"uploading to {target.repository}")
    try:
        url = upload_tar(tar, target, into=into / FOLDER, with_captions=False, interrupted=interrupted)
        log.write(f"uploaded to {url}")
    except (OSError, ValueError) as error:
        log.write(
            f"the upload to {target.repository} failed: {error}; the training itself succeeded, and"
            f" `{later(tar, target)}` uploads its tar later"
        )


def upload_tar(tar: Path, target: HubTarget, *, into: Path, with_captions: bool, interrupted: Interrupted) -> str:
    """Upload a training's tar, and return the URL of the repository. `into` is a new folder for the files.

    Raises UploadError if the upload fails, ValueError and OSError if the tar cannot be used; each message is a clause
    that starts with what was found.
    """
    try:
        publication = read_publication(tar)
        write_publication(publication, into=into, repository=target.repository, with_captions=with_captions)
        patience = Patience.for_folder(into)
        return upload(target, into, patience=patience, interrupted=interrupted)
    except UploadError:
        raise
    except ValueError as error:
        raise ValueError(f"{tar.name} {error}") from error
    finally:
        shutil.rmtree(into, ignore_errors=True)


def later(tar: Path, target: HubTarget) -> str:
    """The command that uploads a tar later."""
    return f"script/publish {tar.name} {target.repository}" + ("" if target.is_private else " --public")
