"""Create a Space on Hugging Face that generates with a LoRA there: the same image without and with it.

The token is that of HF_TOKEN or of `hf auth login`. The Space is private unless --public. Run again, it updates the
page.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from huggingface_hub import SpaceHardware, get_token

from lora.publishing.hub import (
    HubTarget,
    Patience,
    PublishedLora,
    check_repository,
    check_token,
    open_repository,
    read_repository,
    upload,
)
from lora.publishing.hub_process import SpaceSettings
from script.space_files import PAGE, write_space
from weights.catalogue import DEFAULT, EMBEDDED, NAMES, PUBLISHED, embedded, published, published_in
from weights.file_choice import SUFFIX, lora_in_repository, loras_in, quoted_list

LORA, NAME, TOKEN = "lora", "--name", "the token of HF_TOKEN or `hf auth login`"
OWN_TOKEN = "SPACE_HF_TOKEN"
OWN_BASES = " or ".join(base.name for base in EMBEDDED)
FREE = SpaceHardware.CPU_BASIC.value  # where no published base can run
INTERRUPTED = 130  # 128 + SIGINT, as a shell has it
FILES = (".tar", ".tgz", ".tar.gz", ".safetensors")


def main() -> None:
    """Parse the arguments, check the LoRA and the Space, and upload."""
    arguments = _parser().parse_args()
    try:
        _create(arguments)
    except KeyboardInterrupt:
        print("stopped; the Space may exist without its page: run the same command again", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="script/space", description=__doc__)
    parser.add_argument(LORA, metavar="me/my-lora", help="the LoRA's repository on Hugging Face")
    parser.add_argument(NAME, metavar="me/my-lora-demo", help="the Space; by default the LoRA's name with -demo")
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument("--private", action="store_true", help="create a private Space, which is the default")
    visibility.add_argument("--public", action="store_true", help="create a public Space")
    parser.add_argument(
        "--hardware",
        choices=[each.value for each in SpaceHardware],
        help=f"of a new Space; default: {SpaceHardware.ZERO_A10G.value} (ZeroGPU), or {FREE} for {OWN_BASES}",
    )
    parser.add_argument("--base", choices=NAMES, help="the base model; by default what the LoRA's card says, or dev")
    parser.add_argument(
        "--with-token",
        action="store_true",
        help="store a token as the Space's secret HF_TOKEN, to read a gated base and a private LoRA: that of"
        f" {OWN_TOKEN}, for which read access is enough, or without it the one that this command uses",
    )
    return parser


def _create(arguments: argparse.Namespace) -> None:
    lora = _repository(LORA, arguments.lora)
    name = _repository(NAME, arguments.name or f"{lora}-demo")
    token = get_token()
    if not token:
        raise ValueError(f"{TOKEN} is missing: expected one with write access to {name}")
    check_token(TOKEN, token)
    secrets = {"HF_TOKEN": _token_of_space(token)} if arguments.with_token else {}
    found = read_repository(HubTarget(lora, token, True, named=LORA, token_named=TOKEN))
    _check_lora(found, lora)
    base = arguments.base or _base_of(found, lora)
    hardware = arguments.hardware or (FREE if embedded(base) else SpaceHardware.ZERO_A10G.value)
    space = SpaceSettings(hardware, PAGE, _variables(lora, base), secrets)
    target = HubTarget(name, token, not arguments.public, named=NAME, token_named=TOKEN, space=space)
    print(open_repository(target), flush=True)
    print(f"uploaded to {_upload(target, lora, base)}")
    for line in _advice(found, lora, base, hardware, with_token=arguments.with_token):
        print(line)


def _repository(named: str, value: str) -> str:
    if named == LORA and (value.endswith(FILES) or Path(value).is_file()):
        raise ValueError(
            f"{LORA} is the file {value}: expected a repository on Hugging Face; `script/publish trained_model.tar"
            " me/my-lora` makes one of a training's tar"
        )
    name = check_repository(named, value)
    if not name:
        raise ValueError(f"{named} is empty: expected owner/name on Hugging Face, such as me/my-lora")
    return name


def _token_of_space(token: str) -> str:
    return check_token(OWN_TOKEN, os.environ.get(OWN_TOKEN, "").strip()) or token


def _check_lora(found: PublishedLora, lora: str) -> None:
    """Raise ValueError unless the page, which is started with this repository, would find its LoRA."""
    loras = loras_in(found.files)
    if lora_in_repository(loras) is None:
        found_files = f"{len(loras)} {SUFFIX} files ({quoted_list(loras)})"
        raise ValueError(f"{LORA} is {lora!r}, which has {found_files}: expected the repository of one LoRA")


def _base_of(found: PublishedLora, lora: str) -> str:
    """The base that a LoRA's card names."""
    if not found.base_models:
        return DEFAULT
    for base in filter(None, map(published_in, found.base_models)):
        return base.name
    raise ValueError(
        f"{LORA} is {lora!r}, whose card names the base {', '.join(found.base_models)}: expected one of"
        f" {', '.join(base.repository for base in PUBLISHED)}, or --base"
    )


def _variables(lora: str, base: str) -> dict[str, str]:
    # Both, as those of an earlier run with another base stay.
    known = published(base)
    source = {"FLUX_BASE_URL": f"hf://{known.repository}"} if known else {}
    return {"LORA": f"hf://{lora}", "FLUX_BASE": base, **source}


def _upload(target: HubTarget, lora: str, base: str) -> str:
    assert target.space is not None
    known, title = published(base), target.repository.rpartition("/")[2]
    models = [lora, *([known.repository] if known else [])]
    with tempfile.TemporaryDirectory(prefix="flux-lora-space-") as name:
        folder = Path(name)
        write_space(folder, title=title, models=models, hardware=target.space.hardware, own_base=embedded(base))
        return upload(target, folder, patience=Patience.for_folder(folder), interrupted=lambda: None)


def _advice(found: PublishedLora, lora: str, base: str, hardware: str, *, with_token: bool) -> list[str]:
    lines, known = [], published(base)
    needs = [*([known.repository] if known and known.is_gated else []), *([lora] if found.is_private else [])]
    if with_token:
        lines.append(
            "its secret HF_TOKEN is set; only its code can read it, and its owner can remove it in its settings"
        )
    elif needs:
        lines.append(
            f"it reads {' and '.join(needs)} with its secret HF_TOKEN, which is not set: run this again with"
            f" --with-token, or set it in the Space's settings; a token with read access is enough"
        )
    if hardware == FREE and known:
        lines.append(f"the hardware {FREE} has no GPU, which the base {base} needs: choose another in its settings")
    return lines


if __name__ == "__main__":
    main()
