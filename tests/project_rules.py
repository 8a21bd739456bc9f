"""The rules of the project: who may import whom, how long files and functions may be, and what no file may do.

Each rule is a function from a parsed module to complaints. test_architecture.py applies them to every module.
"""

import ast
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Other folders inside weights/ hold downloads and the embedded base, no code of ours.
WEIGHTS_PACKAGES = ("grammar", "network", "sources", "cache")
FILES = (
    *("train.py", "predict.py", "lora/**/*.py", "script/**/*.py", "bench/**/*.py", "deploy/**/*.py"),
    *("weights/*.py", *(f"weights/{package}/*.py" for package in WEIGHTS_PACKAGES)),
)
ENTRIES = {"train": "train", "predict": "run"}

LONGEST_FILE = 300
LONGEST_FUNCTION = 40
LONGEST_ENTRY_BODY = 45

# Of lora, each of which may import those before it, but for what MAY_NOT_IMPORT says.
LORA_PACKAGES = tuple(
    f"lora.{name}"
    for name in (
        "engine",
        "formats",
        "images",
        "base",
        "flux",
        "flux2",
        "families",
        "dataset",
        "captioning",
        "reporting",
        "publishing",
        "training",
        "serving",
    )
)
# Of lora.training, each of which may import those before it.
TRAINING_PACKAGES = tuple(
    f"lora.training.{name}" for name in ("recipe", "memory", "checkpoints", "learning", "runs", "result")
)
# Each is one family of base models; only the registry and the family itself may know it.
FAMILIES = ("lora.flux", "lora.flux2")
CLASSES_OF_FAMILIES = tuple(
    f"diffusers.{name}"
    for name in (
        *("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxTransformer2DModel", "AutoencoderKL"),
        *("Flux2KleinPipeline", "Flux2KleinInpaintPipeline", "Flux2Transformer2DModel", "AutoencoderKLFlux2"),
    )
)
MAY_NOT_IMPORT = {  # a package, and all inside it -> what it must not know
    "lora": ("cog", "weights", "train", "predict", "script", "bench", "deploy"),
    **{package: LORA_PACKAGES[place:] for place, package in enumerate(LORA_PACKAGES, start=1)},
    "lora.engine": LORA_PACKAGES[1:],
    "lora.formats": ("lora.engine", *LORA_PACKAGES[2:], "diffusers"),
    "lora.images": ("lora.engine", "lora.formats", *LORA_PACKAGES[3:], "diffusers"),
    "lora.base": ("lora.images", *LORA_PACKAGES[4:]),
    "lora.flux": ("lora.images", *LORA_PACKAGES[5:]),
    "lora.flux2": ("lora.images", *LORA_PACKAGES[6:]),
    "lora.training": ("lora.serving",),
    "lora.training.progress": TRAINING_PACKAGES,
    "lora.training.relay": TRAINING_PACKAGES,
    "lora.training.stop": TRAINING_PACKAGES,
    **{package: TRAINING_PACKAGES[place:] for place, package in enumerate(TRAINING_PACKAGES, start=1)},
    "lora.reporting": (
        "lora.engine",
        "lora.formats",
        "lora.base",
        "lora.families",
        "lora.training",
        "lora.serving",
        "torch",
    ),
    "lora.publishing": (*LORA_PACKAGES[:10], "lora.training", "lora.serving", "torch"),
    "lora.serving": ("lora.dataset", "lora.captioning", "lora.reporting", "lora.publishing", "lora.training"),
    "weights": ("cog", "lora", "train", "predict", "script", "bench", "deploy"),
    "weights.grammar": ("weights.network", "weights.sources", "weights.cache", "urllib3", "socket"),
    "weights.network": ("weights.sources", "weights.cache"),
    "weights.sources": ("weights.cache",),
    "weights.cache": ("weights.grammar", "weights.network", "weights.sources"),
    "script": ("cog", "deploy"),
    "bench": ("cog", "deploy"),
    "deploy": ("bench", "tests"),
    "deploy.space": ("cog", "lora.training", "train", "deploy.runpod"),
    "deploy.runpod": ("deploy.space",),
    **{
        f"deploy.runpod.{name}": ("runpod",)
        for name in ("answers", "files", "generating", "inputs", "jobs", "training")
    },
    "train": ("predict", "script", "bench", "deploy"),
    "predict": ("lora.dataset", "lora.captioning", "lora.training", "train", "script", "bench", "deploy"),
}


@dataclass(frozen=True)
class Module:
    """A file of the project, parsed. Its name is dotted; `__init__.py` has the name of its package."""

    name: str
    path: str
    text: str
    tree: ast.Module


Rule = Callable[[Module], Iterator[str]]


def parse(path: str, text: str) -> Module:
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return Module(name, path, text, ast.parse(text))


@functools.cache
def modules() -> tuple[Module, ...]:
    """Every module of the project; parsed once, as each rule reads all of them."""
    paths = sorted({path for pattern in FILES for path in ROOT.glob(pattern)})
    return tuple(parse(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths)


def complaints(rule: Rule) -> list[str]:
    return [f"{module.path}: {complaint}" for module in modules() for complaint in rule(module)]


def imports_run_one_way(module: Module) -> Iterator[str]:
    forbidden = [name for package, names in MAY_NOT_IMPORT.items() if is_in(module.name, package) for name in names]
    if is_in(module.name, "lora") and not any(is_in(module.name, package) for package in LORA_PACKAGES):
        forbidden += LORA_PACKAGES
    for imported in imports(module):
        if any(is_in(imported, name) for name in forbidden):
            yield f"imports {imported}"


def families_are_asked_through_their_record(module: Module) -> Iterator[str]:
    """Only a family's own package knows its classes; only the registry knows that package."""
    if not is_in(module.name, "lora") or module.name == "lora.families.registry":
        return
    forbidden = [*FAMILIES, *CLASSES_OF_FAMILIES]
    if any(is_in(module.name, family) for family in FAMILIES):
        forbidden = [family for family in FAMILIES if not is_in(module.name, family)]
    for imported in imports(module):
        if any(is_in(imported, name) for name in forbidden):
            yield f"imports {imported}, which only its family may know"


def files_are_short(module: Module) -> Iterator[str]:
    lines = len(module.text.splitlines())
    if lines > LONGEST_FILE:
        yield f"has {lines} lines"


def functions_are_short(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_entry = node.name == ENTRIES.get(module.name)
        first = node.body[0].lineno if is_entry else node.lineno
        lines = (node.end_lineno or first) - first + 1
        if lines > (LONGEST_ENTRY_BODY if is_entry else LONGEST_FUNCTION):
            yield f"{node.name} has {lines} lines"


def files_say_what_they_are_for(module: Module) -> Iterator[str]:
    docstring = ast.get_docstring(module.tree, clean=False) or ""
    if not docstring.split("\n")[0].strip():
        yield "does not start with a docstring"


def public_names_are_explained(module: Module) -> Iterator[str]:
    if is_in(module.name, "lora") or is_in(module.name, "weights"):
        yield from unexplained(module.tree)


def errors_are_caught_by_their_names(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and (node.type is None or names_every_error(node.type)):
            yield f"catches every error at line {node.lineno}"
        if isinstance(node, ast.Call) and called(node) == "suppress" and any(map(names_every_error, node.args)):
            yield f"suppresses every error at line {node.lineno}"


def sys_path_is_not_changed(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
            yield f"uses sys.path at line {node.lineno}"
    if "sys.path" in imports(module):
        yield "imports sys.path"


def nothing_is_declared_global(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield f"declares {', '.join(node.names)} global at line {node.lineno}"


def only_progress_prints(module: Module) -> Iterator[str]:
    if module.name == "lora.training.progress" or not (is_in(module.name, "lora") or is_in(module.name, "weights")):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and called(node) == "print":
            yield f"prints at line {node.lineno}"


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def imports(module: Module) -> set[str]:
    """Every dotted name that a module imports, inside functions too: `from a import b` imports a and perhaps a.b."""
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = imported_from(module, node)
            found |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return found


def imported_from(module: Module, node: ast.ImportFrom) -> str:
    """The absolute name of what stands after `from`."""
    parts = module.name.split(".") + ([""] if module.path.endswith("__init__.py") else [])
    package = parts[: len(parts) - node.level] if node.level else []
    return ".".join([*package, *([node.module] if node.module else [])])


def unexplained(node: ast.Module | ast.ClassDef) -> Iterator[str]:
    """The public functions, classes and methods without a docstring."""
    for inner in node.body:
        if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or inner.name.startswith("_"):
            continue
        if not ast.get_docstring(inner):
            yield f"{inner.name} has no docstring"
        if isinstance(inner, ast.ClassDef):
            yield from unexplained(inner)


def names_every_error(node: ast.expr) -> bool:
    named = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(ast.unparse(name).split(".")[-1] in ("Exception", "BaseException") for name in named)


def called(node: ast.Call) -> str:
    return ast.unparse(node.func).split(".")[-1]
