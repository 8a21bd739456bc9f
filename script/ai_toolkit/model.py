"""Which base a settings file names, and whether it is the one that FLUX_BASE has for this process."""

import os
from pathlib import Path

from script.ai_toolkit.section import Section
from script.ai_toolkit.understanding import Understanding, quoted
from weights.bases import SETTING, URL_SETTING
from weights.catalogue import DEFAULT, EMBEDDED, TRAINABLE, PublishedBase, published

# The values of model.arch, before a colon -> the bases that ai-toolkit trains with them
ARCHITECTURES = {
    "flux": ("dev", "krea"),
    "flux1": ("dev", "krea"),
    "flux2_klein_4b": ("klein",),
    "flux2_klein_9b": ("klein-9b",),
}
FLUX = "flux"  # the architecture that is_flux names
GUIDED = (FLUX, "flux1")  # the architectures with a guidance embedding


def read_model(model: Section) -> None:
    """Choose the base, and int8 if the job quantizes."""
    _refuse_other_architectures(model)
    _read_name(model)
    quantize = model.get("quantize", False)
    if not isinstance(quantize, bool):
        model.report.refuse(model.at("quantize"), quantize, "true or false")
    elif "|" in str(model.get("qtype", "")):
        model.report.refuse(model.at("qtype"), model.get("qtype"), "no accuracy recovery adapter after the |")
    else:
        remark = "8 bits of the base's weights" if quantize else "bf16 if it fits into memory"
        model.give("precision", "int8" if quantize else "auto", field="quantize", remark=remark)
    model.inner("model_kwargs").close()
    model.close()


def has_guidance_embedding(model: Section) -> bool:
    """Whether the transformer of the architecture takes guidance as an input."""
    return _architecture(model) in GUIDED


def _read_name(model: Section) -> None:
    named, path = model.get("name_or_path"), model.at("name_or_path")
    bases = [base for base in TRAINABLE if base.name in ARCHITECTURES.get(_architecture(model), ())]
    expected = f"{' or '.join(base.repository for base in bases)}, or a folder of one of them in diffusers layout"
    if not bases:
        return  # the architecture is refused already
    if named is None:
        model.report.fault(f"{path} is missing: expected {expected}")
    elif not isinstance(named, str) or _base(named, bases) is None:
        model.report.refuse(
            path, named, f"{expected}; other models are not trained here with the arch {_architecture(model)}"
        )
    else:
        choose_base(str(_base(named, bases)), path=path, found=named, report=model.report)


def _architecture(model: Section) -> str:
    return str(model.get("arch", FLUX)).split(":")[0]


def _refuse_other_architectures(model: Section) -> None:
    arch = model.get("arch")
    if arch is not None and _architecture(model) not in ARCHITECTURES:
        names = " or ".join(name for name in ARCHITECTURES if name != "flux1")
        model.report.refuse(model.at("arch"), arch, f"{names}; other architectures are not trained here")
    elif arch is None and model.get("is_flux") is not True:
        found = model.get("is_flux")
        said = "missing" if found is None else quoted(found)
        model.report.fault(f"{model.at('is_flux')} is {said}: expected true; ai-toolkit would train Stable Diffusion")
    else:
        name = "is_flux" if arch is None else "arch"
        model.report.note(model.at(name), model.get(name), "as here")


def _base(named: str, bases: list[PublishedBase]) -> str | None:
    """The value of FLUX_BASE for the name of one of these on the Hub or for a folder; None for another model.

    The public trainer names a folder of its own, FLUX.1-dev, which is not on this machine.
    """
    if Path(named).is_dir():
        return str(Path(named).resolve())
    last = Path(named).name.casefold()
    return next((base.name for base in bases if base.repository.partition("/")[2].casefold() == last), None)


def choose_base(base: str, *, path: str, found: object, report: Understanding) -> None:
    """Take `base` for FLUX_BASE unless that is set; a set one must be the same, or a base of the user's own."""
    is_set = os.environ.get(SETTING, "").strip()
    if not is_set:
        report.base = base
        report.note(path, found, f"{SETTING} {base}")
    elif is_set in (base, found):
        report.note(path, found, f"{SETTING} {is_set}")
    elif known := published(is_set):
        report.refuse(path, found, f"{known.repository}, because {SETTING} is {is_set}: unset it, or change one")
    else:
        report.note(path, found, f"{SETTING} {is_set}, which is set, takes its place")


def choose_recorded_base(base: object, *, path: str, report: Understanding) -> None:
    """The same for the name of a base in a config.yaml of this trainer."""
    names = [*(each.name for each in TRAINABLE), *(each.name for each in EMBEDDED)]
    if base in names:
        choose_base(str(base), path=path, found=base, report=report)
    elif os.environ.get(SETTING, "").strip() or os.environ.get(URL_SETTING, "").strip():
        report.note(path, base, f"{SETTING} or {URL_SETTING}, which is set, takes its place")
    else:
        report.refuse(
            path, base, f"{', '.join(names[:-1])} or {names[-1]}; or set {SETTING}, which is {DEFAULT} if unset"
        )
