"""The sample images of a job: their prompts, how often and how they are generated."""

from lora.dataset.captions import PLACEHOLDER
from lora.training.recipe.config import MAX_SAMPLE_PROMPTS, MAX_STEPS, NO_SAMPLES
from script.ai_toolkit.section import Section


def read_samples(sample: Section, *, is_off: bool, trigger_word: str, micro_batches: int) -> None:
    """Take the prompts with `[trigger]` replaced, as ai-toolkit does, and the options that this trainer has."""
    field = "samples" if "samples" in sample.fields else "prompts"
    prompts, remarks = _prompts(sample, field)
    if is_off or not prompts:
        sample.give("sample_prompts", NO_SAMPLES, field=field, remark="disable_sampling" if is_off else "no prompts")
    else:
        if len(prompts) > MAX_SAMPLE_PROMPTS:
            remarks.append(f"the first {MAX_SAMPLE_PROMPTS} of {len(prompts)}")
        word = sample.report.flags.get("trigger_word", trigger_word)
        lines = [PLACEHOLDER.sub(lambda _: str(word) or "[trigger]", text) for text in prompts[:MAX_SAMPLE_PROMPTS]]
        sample.give("sample_prompts", "\n".join(lines), field=field, remark=", ".join(remarks))
        _options(sample, micro_batches)
    sample.close()


def _options(sample: Section, micro_batches: int) -> None:
    every = sample.whole("sample_every", 100, least=0)
    sample.give("sample_every", min(-(-every // micro_batches), MAX_STEPS), field="sample_every")
    sample.give("sample_steps", sample.get("sample_steps", 20), field="sample_steps")
    sample.give("sample_guidance", sample.get("guidance_scale", 7), field="guidance_scale")


def _prompts(sample: Section, field: str) -> tuple[list[str], list[str]]:
    """The prompts, each one line without the options that ai-toolkit takes in it, and remarks on what was left out."""
    found = sample.get(field, [])
    if not isinstance(found, list):
        sample.report.refuse(sample.at(field), found, "a list of prompts")
        return [], []
    texts, remarks = [], set()
    for index, each in enumerate(found):
        text = each.get("prompt") if field == "samples" and isinstance(each, dict) else each
        if not isinstance(text, str):
            sample.report.refuse(f"{sample.at(field)}[{index}]", each, "a prompt; put it in quotes")
            continue
        prompt, options, _ = text.partition("--")
        remarks |= {"without the options after --"} if options else set()
        remarks |= {"without settings of their own"} if isinstance(each, dict) and each.keys() - {"prompt"} else set()
        texts += [" ".join(prompt.split())] if prompt.strip() else []
    return texts, sorted(remarks)


def trigger_word(process: Section, dataset: Section) -> str:
    """The trigger word of the data set, which wins over that of the process; empty if both are absent."""
    section = dataset if "trigger_word" in dataset.fields else process
    word = section.get("trigger_word", "")
    if not isinstance(word, str):
        section.report.refuse(section.at("trigger_word"), word, "a text: put it in quotes")
        return ""
    section.give("trigger_word", word, field="trigger_word", remark="" if word else "captions are trained as they are")
    return word
