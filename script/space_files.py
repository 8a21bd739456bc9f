"""The files of a Space: the page of deploy/space, what of this project it needs, and the Space's README. Uploads
nothing."""

import shutil
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData

from script.docker_context import files_in_context
from weights.catalogue import EmbeddedBase

ROOT = Path(__file__).resolve().parents[1]
APP, REQUIREMENTS = "deploy/space/app.py", "deploy/space/requirements.txt"
PAGE = "deploy/space/page.py"  # by which a Space of ours is known
PYTHON = "3.12"  # of ZeroGPU
STARTUP = "1h"  # for a Space that downloads its base of 34 GB first: our choice, the Hub's default is half of it
CODE = ("lora/", "weights/")
ALSO = ("LICENSE", "predict.py", "script/__init__.py", "script/cog_inputs.py", "deploy/__init__.py")


def write_space(folder: Path, *, title: str, models: list[str], hardware: str, own_base: EmbeddedBase | None) -> None:
    """Write all files of a Space into a folder. `models` are repositories that it uses, `own_base` is the embedded base
    if it uses one."""
    page = (path.relative_to(ROOT).as_posix() for path in (ROOT / "deploy/space").glob("*.py"))
    for name in (*_code(own_base), *ALSO, *page):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    shutil.copyfile(ROOT / APP, folder / Path(APP).name)
    shutil.copyfile(ROOT / REQUIREMENTS, folder / Path(REQUIREMENTS).name)
    (folder / "README.md").write_text(readme(title, models, hardware), encoding="utf-8")


def readme(title: str, models: list[str], hardware: str) -> str:
    """The Space's README.md, whose metadata tell the Hub how to run it."""
    data = SpaceCardData(
        title=title,
        emoji="🎨",
        colorFrom="indigo",
        colorTo="pink",
        sdk="gradio",
        sdk_version=pinned("gradio"),
        python_version=PYTHON,
        app_file=Path(APP).name,
        startup_duration_timeout=STARTUP,
        suggested_hardware=hardware,
        license="apache-2.0",
        models=models,
        tags=["flux", "lora"],
        short_description="The same image without and with a LoRA",
    )
    links = " and ".join(f"[{model}](https://huggingface.co/{model})" for model in models)
    return str(SpaceCard(f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\nGenerates with {links}.\n"))


def pinned(package: str) -> str:
    """The version of a package in a Space."""
    lines = (ROOT / REQUIREMENTS).read_text().splitlines()
    return next(line.removeprefix(f"{package}==") for line in lines if line.startswith(f"{package}=="))


def _code(own_base: EmbeddedBase | None) -> list[str]:
    """The modules that Cog's image has too, and the embedded base if one is wanted."""
    in_image = sorted(files_in_context(ROOT))
    base = (f"weights/{own_base.folder}/",) if own_base else ()
    return [name for name in in_image if (name.startswith(CODE) and name.endswith(".py")) or name.startswith(base)]
