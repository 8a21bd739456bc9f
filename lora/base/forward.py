"""Replace the forward pass of a transformer for a while: code that calls it, such as a pipeline, has no hook around
one pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.models.modeling_utils import ModelMixin

Forward = Callable[..., Any]


@contextmanager
def replaced_forward(transformer: ModelMixin, replace: Callable[[Forward], Forward]) -> Iterator[None]:
    """Inside the `with` block, the transformer computes what `replace` makes of its forward pass. Hooks of the
    transformer run before and after as usual. Such blocks may be nested."""
    outer = transformer.__dict__.get("forward")
    transformer.__dict__["forward"] = replace(transformer.forward)
    try:
        yield
    finally:
        transformer.__dict__.pop("forward")
        if outer is not None:
            transformer.__dict__["forward"] = outer
