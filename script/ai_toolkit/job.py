"""A job of ai-toolkit as the inputs of a training here: its top level, its data set, and what it saves."""

from collections import Counter
from pathlib import Path
from typing import Any

from lora.dataset.mask_settings import ORIGINAL
from script.ai_toolkit.model import has_guidance_embedding, read_model
from script.ai_toolkit.samples import read_samples, trigger_word
from script.ai_toolkit.section import Section
from script.ai_toolkit.training import checkpoint_every, micro_batches, read_network, read_train
from script.ai_toolkit.understanding import Understanding
from script.training_flags import ARCHIVE

JOBS = ("extension", "custom_job")  # the second is that of ostris/flux-dev-lora-trainer on Replicate
PROCESSES = ("sd_trainer", "diffusion_trainer", "ui_trainer", "custom_sd_trainer")
PROCESS = "config.process[0]"
DEFAULT_RESOLUTION = 512


def read_job(tree: dict[str, Any], report: Understanding) -> None:
    """Take every field of a job, or refuse it by name; `report` collects both."""
    top = Section("job", "", tree, report)
    if top.get("job") not in JOBS:
        report.refuse("job", top.get("job"), f"{JOBS[0]}, a training; other jobs of ai-toolkit are not there")
        return
    config = Section("config", "config", _with_name(top.get("config")), report)
    processes = config.get("process")
    if not isinstance(processes, list) or len(processes) != 1:
        found = f"a list of {len(processes)}" if isinstance(processes, list) else type(processes).__name__
        report.fault(f"config.process is {found}: expected a list of one process, as each training has its own file")
        return
    process = Section("process", PROCESS, processes[0], report)
    if process.get("type") not in PROCESSES:
        report.refuse(f"{PROCESS}.type", process.get("type"), f"{PROCESSES[0]} or {PROCESSES[1]}, which train a LoRA")
        return
    _read_process(process)
    _output(config, process)
    process.close()
    config.close()
    top.close()


def _with_name(config: object) -> object:
    """Replace `[name]` in all texts by the name of the job, as ai-toolkit does."""
    if not isinstance(config, dict) or "name" not in config:
        return config
    return _replaced(config, str(config["name"]))


def _replaced(value: object, name: str) -> object:
    if isinstance(value, dict):
        return {key: _replaced(each, name) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, name) for each in value]
    return value.replace("[name]", name) if isinstance(value, str) else value


def _read_process(process: Section) -> None:
    train, model, dataset = process.inner("train"), process.inner("model"), _dataset(process)
    of_one = micro_batches(train)
    word = trigger_word(process, dataset)
    _read_dataset(dataset)
    read_model(model)  # before the training, whose presets are those of the base
    read_network(process.inner("network"))
    read_train(train, has_guidance_embedding=has_guidance_embedding(model))
    _read_save(process.inner("save"), of_one)
    is_off = train.get("disable_sampling") is True
    read_samples(process.inner("sample"), is_off=is_off, trigger_word=word, micro_batches=of_one)
    process.inner("logging").close()
    if "training_seed" in process.fields:
        process.give("seed", process.get("training_seed"), field="training_seed")


def _dataset(process: Section) -> Section:
    """The only data set, without fields if there is none."""
    found, path = process.get("datasets"), process.at("datasets")
    if isinstance(found, list) and len(found) == 1:
        return Section("datasets", f"{path}[0]", found[0], process.report)
    if isinstance(found, list) and found:
        process.report.fault(
            f"{path} has {len(found)} entries: expected one; put all images into one folder or archive"
        )
    else:
        process.report.fault(f"{path} is missing: expected a list of one data set with its folder_path")
    return Section("datasets", f"{path}[0]", None, Understanding({ARCHIVE: "-"}))


def _read_dataset(dataset: Section) -> None:
    field = "dataset_path" if "dataset_path" in dataset.fields else "folder_path"
    _archive(dataset, field)
    dataset.give("caption_dropout_rate", dataset.get("caption_dropout_rate", 0.0), field="caption_dropout_rate")
    dataset.give("resolution", _resolution(dataset), field="resolution")
    _give_masks(dataset)
    if "cache_latents_to_disk" in dataset.fields:
        dataset.give("cache_latents_to_disk", dataset.get("cache_latents_to_disk"), field="cache_latents_to_disk")
    dataset.close()


def _give_masks(dataset: Section) -> None:
    """ai-toolkit takes transparency as a mask only if it is told to."""
    is_used = dataset.get("alpha_mask", False)
    if is_used is True:
        least = dataset.get("mask_min_value", 0.0)
        dataset.give("unmasked_weight", least, field="mask_min_value", remark="what is transparent is white")
        dataset.give("mask_background", ORIGINAL, field="alpha_mask", remark="files only weight the loss, as there")
    elif is_used is False:
        dataset.give("unmasked_weight", 1.0, field="alpha_mask", remark="no masks")
    else:
        dataset.report.refuse(dataset.at("alpha_mask"), is_used, "true or false")


def _archive(dataset: Section, field: str) -> None:
    """Take the folder as the archive, unless the command line names one."""
    folder, report, path = dataset.get(field), dataset.report, dataset.at(field)
    if report.flags.get(ARCHIVE):
        report.note(path, folder, f"{report.flags[ARCHIVE]}, which is given, wins")
    elif isinstance(folder, str) and Path(folder).exists():
        report.inputs[ARCHIVE] = folder
        report.note(path, folder, "the images")
    else:
        found = "missing" if folder is None else f"{str(folder)[:200]!r}, where nothing is"
        advice = "name one before --config, as in `script/train photos.zip --config FILE`"
        report.fault(f"{path} is {found}: expected a folder or an archive of images; {advice}")


def _resolution(dataset: Section) -> str:
    """The sizes as text. ai-toolkit trains all images at each of them, so `[1024, 1024]` is the same as 1024."""
    found = dataset.get("resolution", DEFAULT_RESOLUTION)
    sizes = Counter(str(each) for each in found) if isinstance(found, list) else Counter([str(found)])
    if len(set(sizes.values())) > 1 and "resolution" not in dataset.report.flags:
        dataset.report.refuse(dataset.at("resolution"), found, "each size as often as the others")
    return ",".join(sizes)


def _read_save(save: Section, of_one: int) -> None:
    checkpoint_every(save, of_one)
    repository = save.get("hf_repo_id")
    if save.get("push_to_hub") is True and repository is not None:
        save.give("hf_repo_id", repository, field="hf_repo_id")
        if "hf_private" in save.fields:  # else private, as everywhere here
            save.give("hf_private", save.get("hf_private"), field="hf_private")
    elif save.get("push_to_hub") is True:
        save.report.fault(
            f"{save.at('hf_repo_id')} is missing: expected the name of a repository, as push_to_hub is true"
        )
    else:
        for name in ("push_to_hub", "hf_repo_id", "hf_private"):
            if name in save.fields:
                save.report.note(save.at(name), save.get(name), "nothing is uploaded")
    save.close()


def _output(config: Section, process: Section) -> None:
    """The tar is written to the training folder, under the name of the job."""
    name, folder = config.get("name"), process.get("training_folder", ".")
    if name is None:
        process.report.fault("config.name is missing: expected the name of the LoRA")
    elif Path(str(name)).name != str(name) or "\\" in str(name) or not f"{name}{folder}".isprintable():
        process.report.refuse("config.name", name, "a name for a file, without a folder")
    else:
        process.report.output = str(Path(str(folder)) / f"{name}.tar")
        process.report.note("config.name", name, f"--output {process.report.output}, unless it is given")
