"""The inputs of a prediction, from a mapping of names and values to one checked record. Knows no model.

Cog's server, a script and a handler of another server all have such a mapping, and may leave inputs out.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

from lora.base.family import ReferenceEncoding, SamplingDefaults
from lora.checks import check_bool, check_list, check_names
from lora.images.size import Size
from lora.seeds import seed_notes
from lora.serving.other_names import loras_by_any_name
from lora.serving.reference_images import NAMES, ReferenceImage, read_references
from lora.serving.request import CHECKS, SIDES, Request
from lora.serving.requested_loras import RequestedLora
from lora.serving.sources import Source, read_source
from lora.workspace import Readable, clear_folder, named_file

FILES, LISTS_OF_FILES = ("image", "mask"), NAMES
LONGEST_SIDE = {"webp": 16_383}  # pixels that a format can hold; jpg holds 65,535 and png more than any image has
Inputs = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionInputs:
    """Everything that the inputs of one prediction ask for."""

    request: Request
    loras: tuple[RequestedLora, ...]
    source: Source | None
    references: tuple[ReferenceImage, ...]
    image: Path | None  # the uploaded files of the source
    mask: Path | None
    are_sides_given: bool  # width or height, whatever the aspect ratio
    seed_notes: tuple[str, ...]  # for the log, if another seed is used than the one that was given
    is_checker_disabled: bool

    @classmethod
    def checked(
        cls, inputs: Inputs, *, defaults: SamplingDefaults, trained: str, references: ReferenceEncoding | None = None
    ) -> Self:
        """Check complete inputs. `defaults` are those of the base model, and `references` encodes its reference images;
        without it, none may be given.

        `trained` refers to the LoRA of a trained version, or is empty. Raises ValueError with one sentence that names
        the input.
        """
        image, mask = inputs["image"], inputs["mask"]
        request = Request.checked(defaults=defaults, **{name: inputs[name] for name in CHECKS})
        source = read_source(image, mask, inputs["prompt_strength"])
        shown = read_references(inputs, fit=references.fit) if references else ()
        if source and source.mask:
            _refuse_longer_than_format(source.decoded.original, request.output_format)
        return cls(
            request=request if shown and not source else request.without_match(),
            loras=loras_by_any_name(inputs, trained=trained),
            source=source,
            references=shown,
            image=image,
            mask=mask,
            are_sides_given=any(inputs[side] for side in SIDES),
            seed_notes=seed_notes(inputs["seed"], request.seed),
            is_checker_disabled=check_bool("disable_safety_checker", inputs["disable_safety_checker"]),
        )


def _refuse_longer_than_format(size: Size, output_format: str) -> None:
    """With a mask, the output has the size of the image, which may be longer than its file can hold."""
    longest = LONGEST_SIDE.get(output_format)
    if longest and max(size.width, size.height) > longest:
        raise ValueError(
            f"image is {size}, as large as the output with a mask, and output_format is {output_format}: "
            f"expected at most {longest:,} pixels a side, or output_format jpg or png"
        )


def complete_inputs(given: Inputs, *, entry: Callable[..., object]) -> dict[str, Any]:
    """Return the inputs of an entry point by name; those that are missing or None have the default of its signature.

    Some clients send null for each input that is left open; Cog's server refuses null if it has a schema.
    In plain Python a default is Cog's `Input(...)`, and is passed as it is; Cog's server has replaced it by its value.
    Raises ValueError with one sentence for a name that is not an input.
    """
    parameters = {name: each for name, each in inspect.signature(entry).parameters.items() if name != "self"}
    check_names(given, parameters)
    values = {
        name: parameter.default if given.get(name) is None else given[name] for name, parameter in parameters.items()
    }
    return {name: getattr(value, "default", value) for name, value in values.items()}


def receive_uploads(inputs: Inputs, *, folder: Path, readable: Readable) -> dict[str, Any]:
    """Return the inputs with each uploaded file as a path or None, and delete all older uploads in the folder.

    Of a list of files, those that are blank are left out. Raises ValueError with one sentence if a value is not a file
    in a readable folder.
    """
    files = {name: named_file(name, inputs[name], readable) for name in FILES}
    lists = {name: list(_listed_files(name, inputs[name], readable)) for name in LISTS_OF_FILES}
    clear_folder(folder, keep=(*files.values(), *chain.from_iterable(lists.values())))
    return {**inputs, **files, **lists}


def _listed_files(name: str, given: object, readable: Readable) -> Iterator[Path]:
    values = check_list(name, given)
    blank = [index for index, value in enumerate(values) if isinstance(value, str) and not value.strip()]
    if blank and any(isinstance(value, str) for index, value in enumerate(values) if index not in blank):
        # Cog downloads either all entries or none.
        raise ValueError(f"{name}[{blank[0]}] is blank: expected a file, or a list without this entry")
    for index, value in enumerate(values):
        if file := named_file(f"{name}[{index}]", value, readable):
            yield file
