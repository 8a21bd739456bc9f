"""The OpenAPI document equals the one that Cog makes, and the forms that Cog would drop are refused."""

import importlib.util
import json
import time
from pathlib import Path

import pytest

from lora.base.presets import LORA_TYPES
from lora.dataset.mask_settings import BACKGROUNDS
from lora.training.recipe.choices import EXTRA_LAYOUTS, OPTIMIZERS, PRECISIONS, SCHEDULES
from script.openapi import openapi, training_inputs, write_schema

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT.parent / "shared" / "tools" / "cogschema.py"

TRAIN = """
from cog import BaseModel, Input, Path

class TrainingOutput(BaseModel):
    weights: Path

def train(
    images: Path = Input(description="Images"),
    steps: int = Input(description="Steps", default=3, ge=1, le=9),
    shape: str = Input(description="Shape", default="a", choices=["a", "b"]),
) -> TrainingOutput:
    return TrainingOutput(weights=images)
"""
PREDICT = """
from typing import Optional
from cog import BaseRunner, Input, Path, Secret

class Runner(BaseRunner):
    def run(
        self,
        prompt: str = Input(description="Prompt", min_length=1, max_length=9, regex="a+"),
        seed: Optional[int] = Input(description="Seed", default=None, ge=-1),
        scale: float = Input(description="Scale", default=1e-4),
        token: Optional[Secret] = Input(description="Token", default=None),
        names: list[str] = Input(description="Names", default=["a", "b"]),
        shape: str = Input(
            description="Shape",
            choices=[
                "a",
                'b',
            ],
        ),
    ) -> list[Path]:
        return []
"""
STEPS = 'steps: int = Input(description="Steps", default=3, ge=1, le=9)'
IMAGES = 'images: Path = Input(description="Images")'

SPOILED_INPUTS = {
    "implicit concatenation": 'steps: int = Input(description="St" "eps", default=3)',
    "concatenation by plus": 'steps: int = Input(description="St" + "eps", default=3)',
    "a parenthesised description": 'steps: int = Input(description=("Steps"), default=3)',
    "a parenthesised default": 'steps: int = Input(description="Steps", default=(3))',
    "a parenthesised Input": 'steps: int = (Input(description="Steps", default=3))',
    "a parenthesised type": 'steps: (int) = Input(description="Steps", default=3)',
    "an f-string": 'steps: int = Input(description=f"Steps", default=3)',
    "a prefix": 'steps: int = Input(description=u"Steps", default=3)',
    "a raw string": 'steps: int = Input(description=r"Steps", default=3)',
    "an escaped quote": r'steps: int = Input(description="\"Steps\"", default=3)',
    "an escaped line break": r'steps: int = Input(description="Steps\nand more", default=3)',
    "three quotes": 'steps: int = Input(description="""Steps""", default=3)',
    "a formatted string": 'steps: int = Input(description="Steps {}".format(1), default=3)',
    "a name as description": "steps: int = Input(description=TEXT, default=3)",
    "a name as default": 'steps: int = Input(description="Steps", default=NUMBER)',
    "an expression as default": 'steps: int = Input(description="Steps", default=2**31 - 1)',
    "a plus sign": 'steps: int = Input(description="Steps", default=+3)',
    "a space in a negative number": 'steps: int = Input(description="Steps", default=- 3)',
    "a hexadecimal number": 'steps: int = Input(description="Steps", default=0xFF)',
    "a name as lower bound": 'steps: int = Input(description="Steps", default=3, ge=NUMBER)',
    "an expression as upper bound": 'steps: int = Input(description="Steps", default=3, le=2**31 - 1)',
    "text as a bound": 'steps: int = Input(description="Steps", default=3, le="9")',
    "a name as choices": 'steps: str = Input(description="Steps", default="a", choices=NAMES)',
    "sorted choices": 'steps: str = Input(description="Steps", default="a", choices=sorted(["a"]))',
    "the keys of a dict as choices": 'steps: str = Input(description="Steps", default="a", choices=list(D.keys()))',
    "a sum of choices": 'steps: str = Input(description="Steps", default="a", choices=["a"] + ["b"])',
    "a tuple of choices": 'steps: str = Input(description="Steps", default="a", choices=("a", "b"))',
    "a name among the choices": 'steps: str = Input(description="Steps", default="a", choices=["a", B])',
    "a joined choice": 'steps: str = Input(description="Steps", default="a", choices=["a", "b" "c"])',
    "a parenthesised choice": 'steps: str = Input(description="Steps", default="a", choices=["a", ("b")])',
    "a comment among the choices": 'steps: str = Input(description="Steps", choices=["a",  # first\n "b"])',
    "no choices at all": 'steps: str = Input(description="Steps", choices=[])',
    "choices of another type": 'steps: str = Input(description="Steps", choices=[1, 2])',
    "choices that come as a list": 'steps: list[str] = Input(description="Steps", choices=["a"])',
    "a default of None without Optional": 'steps: int = Input(description="Steps", default=None)',
    "Optional without a default": 'steps: Optional[int] = Input(description="Steps")',
    "a default of another type": 'steps: int = Input(description="Steps", default=3.5)',
    "a list as the default of one": 'steps: int = Input(description="Steps", default=[3])',
    "a default outside the choices": 'steps: str = Input(description="Steps", default="c", choices=["a", "b"])',
    "a default below its bound": 'steps: int = Input(description="Steps", default=0, ge=1)',
    "a default above its bound": 'steps: int = Input(description="Steps", default=10, le=9)',
    "bounds on text": 'steps: str = Input(description="Steps", default="a", ge=1)',
    "a length on a number": 'steps: int = Input(description="Steps", default=3, max_length=1)',
    "a number that float64 rounds": 'steps: int = Input(description="Steps", default=3, le=9007199254740993)',
    "a positional argument": 'steps: int = Input(3, description="Steps")',
    "unpacked arguments": 'steps: int = Input(**{"default": 3})',
    "an unknown setting": 'steps: int = Input(description="Steps", default_factory=int)',
    "no description": "steps: int = Input(default=3)",
    "an empty description": 'steps: int = Input(description="", default=3)',
    "a plain default": "steps: int = 3",
    "an Input by its module": 'steps: int = cog.Input(description="Steps", default=3)',
    "an Input made elsewhere": "steps: int = STEPS",
    "no type": 'steps=Input(description="Steps", default=3)',
    "a Literal": 'steps: Literal["a"] = Input(description="Steps", default="a")',
    "a union": 'steps: int | str = Input(description="Steps", default=3)',
    "None in a union": 'steps: int | None = Input(description="Steps", default=None)',
    "a bare list": 'steps: list = Input(description="Steps", default=["a"])',
    "a type in quotes": 'steps: "int" = Input(description="Steps", default=3)',
    "a type of another name": 'steps: P = Input(description="Steps")',
    "a type that is not imported from cog": 'steps: Secret = Input(description="Steps")',
    "many arguments": "*steps: int",
    "keyword-only arguments": '*, steps: int = Input(description="Steps", default=3)',
    "positional-only arguments": 'steps: int = Input(description="Steps", default=3), /',
    "a name of Cog's own with choices": 'Status: str = Input(description="Steps", choices=["a"])',
}
SPOILED_FILES = {
    "any keywords": (") -> TrainingOutput:", "    **others: int\n) -> TrainingOutput:"),
    "a decorator on the function": ("def train(", "@decorated\ndef train("),
    "an asynchronous function": ("def train(", "async def train("),
    "two functions of one name": ("def train(", "def train():\n    pass\n\ndef train("),
    "no such function": ("def train(", "def other("),
    "a class in its place": ("def train(", "class train:\n    pass\n\ndef other("),
    "an input without a default": (IMAGES, "images: Path"),
    "an Input that is not cog's": ("import BaseModel, Input, Path", "import BaseModel, Path"),
    "a Path that is not cog's": ("import BaseModel, Input, Path", "import BaseModel, Input\nfrom pathlib import Path"),
    "an Input under another name": ("Input, Path", "Input as I, Path"),
    "no return type": (") -> TrainingOutput:", "):"),
    "None returned": ("-> TrainingOutput:", "-> None:"),
    "an optional output": ("-> TrainingOutput:", "-> Optional[Path]:"),
    "a parenthesised output": ("-> TrainingOutput:", "-> (TrainingOutput):"),
    "an output that is imported": ("class TrainingOutput(BaseModel)", "class Other(BaseModel)"),
    "an output that derives from another": ("(BaseModel)", "(Other)"),
    "an output that derives from nothing": ("(BaseModel)", ""),
    "a field with a default": ("weights: Path", 'weights: Path = Path("a")'),
    "a field without a type": ("weights: Path", "weights = 3"),
    "other choices under the same name": ('choices=["a", "b"]', 'choices=["a", "c"]'),
    "the same choices in another order": ('choices=["a", "b"]', 'choices=["b", "a"]'),
}


def package(folder: Path, *, train: str = TRAIN, predict: str = PREDICT) -> Path:
    """Write the two entry files into a folder, and return it."""
    (folder / "train.py").write_text(train)
    (folder / "predict.py").write_text(predict)
    return folder


def spoil(source: str, old: str, new: str) -> str:
    assert source.count(old) == 1
    return source.replace(old, new)


@pytest.fixture(scope="module")
def reference():
    """The function that makes the document as Cog's generator does; it is next to the repository, not in it."""
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is not at hand")
    spec = importlib.util.spec_from_file_location("cogschema", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda root: module.combined(str(root), "predict.py:Runner", "train.py:train")


def test_the_document_is_the_one_that_cog_makes(reference):
    assert openapi(ROOT) == reference(ROOT)


def test_every_accepted_form_is_read_as_cog_reads_it(tmp_path, reference):
    root = package(tmp_path)

    assert openapi(root) == reference(root)


def test_single_types_and_fields_are_written_as_cog_writes_them(tmp_path, reference):
    train = spoil(
        TRAIN, "weights: Path", '"""Output."""\n\n    weights: Path\n    log: Optional[str]\n    losses: list[float]'
    )
    root = package(tmp_path, train=train, predict=spoil(PREDICT, "-> list[Path]", "-> Path"))

    assert openapi(root) == reference(root)


def test_an_entry_point_may_have_no_inputs(tmp_path, reference):
    train = "from cog import Path\n\ndef train() -> Path:\n    return Path()\n"
    root = package(tmp_path, train=train)

    assert openapi(root) == reference(root)


def test_an_error_shows_the_text_of_an_input_as_it_is_written(tmp_path):
    written = 'choices=["größer", "狐",  # "ä"\n    B]'
    train = spoil(TRAIN, 'choices=["a", "b"]', written)

    with pytest.raises(ValueError) as error:
        openapi(package(tmp_path, train=train))

    assert f"`{written}`" in str(error.value)


def test_a_long_file_is_split_into_lines_once(tmp_path):
    """Once for each input takes seconds of processor time, once for all a tenth of one."""
    root = package(tmp_path, train=TRAIN + "# a comment\n" * 100_000)
    began = time.process_time()

    openapi(root)

    assert time.process_time() - began < 0.8


def test_only_the_prompt_is_required():
    """A training without images is refused later: an existing LoRA can be returned without them."""
    schemas = openapi(ROOT)["components"]["schemas"]

    assert schemas["Input"]["required"] == ["prompt"]
    assert "required" not in schemas["TrainingInput"]


@pytest.mark.parametrize("component", ["Input", "TrainingInput"])
def test_every_input_has_a_description_of_one_short_line(component):
    for name, schema in openapi(ROOT)["components"]["schemas"][component]["properties"].items():
        assert 0 < len(schema["description"]) < 90, name
        assert not schema["description"].endswith("."), name


def test_training_inputs_are_in_the_order_of_the_signature():
    inputs = training_inputs(ROOT)

    assert next(iter(inputs)) == "input_images"
    assert [schema["x-order"] for schema in inputs.values()] == list(range(len(inputs)))


def test_the_inputs_of_a_training_offer_every_choice():
    choices = {name: schema["enum"] for name, schema in training_inputs(ROOT).items() if "enum" in schema}

    assert choices == {
        "lora_type": list(LORA_TYPES),
        "mask_background": list(BACKGROUNDS),
        "lr_scheduler": list(SCHEDULES),
        "precision": list(PRECISIONS),
        "extra_layout": list(EXTRA_LAYOUTS),
    }


def test_the_description_of_optimizer_names_every_one():
    """It has no choices, so that a client may write AdamW8bit, as for the public trainer."""
    names = training_inputs(ROOT)["optimizer"]["description"].replace(" or ", ", ").split(", ")

    assert names == list(OPTIMIZERS)


def test_the_document_is_written_to_where_cog_reads_it(tmp_path):
    path = write_schema(package(tmp_path))

    assert path == tmp_path / ".cog" / "openapi_schema.json"
    assert json.loads(path.read_text()) == openapi(tmp_path)


@pytest.mark.parametrize("spoiled", SPOILED_INPUTS.values(), ids=SPOILED_INPUTS.keys())
def test_an_input_that_cog_would_drop_is_refused(tmp_path, spoiled):
    root = package(tmp_path, train=spoil(TRAIN, STEPS, spoiled))

    with pytest.raises(ValueError, match=r"^train\.py line \d+: .*(steps|Status|train)"):
        openapi(root)


@pytest.mark.parametrize(("old", "new"), SPOILED_FILES.values(), ids=SPOILED_FILES.keys())
def test_a_file_that_cog_would_misread_is_refused(tmp_path, old, new):
    root = package(tmp_path, train=spoil(TRAIN, old, new))

    with pytest.raises(ValueError, match=r"^train\.py "):
        openapi(root)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    def run(", "    @decorated\n    def run("),
        ("class Runner", "@decorated\nclass Runner"),
        ("-> list[Path]:", ":"),
    ],
)
def test_a_method_that_cog_would_misread_is_refused(tmp_path, old, new):
    root = package(tmp_path, predict=spoil(PREDICT, old, new))

    with pytest.raises(ValueError, match=r"^predict\.py "):
        openapi(root)


def test_an_error_names_file_line_and_input(tmp_path):
    root = package(tmp_path, train=spoil(TRAIN, "le=9", "le=MOST"))

    with pytest.raises(ValueError, match=r"^train\.py line 9: steps sets `le=MOST`, but Cog only keeps a single"):
        openapi(root)
