"""Pages that are one HTML file: style and script are in it, and its policy admits nothing else."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

STYLE_OF_ALL = Path(__file__).with_name("base.css")


def whole_page(template: str, content: Mapping[str, object], *, style: str, script: str) -> str:
    """Render a Jinja template with `content`, in which every text is escaped, and with `style`, `script` and `policy`.

    The style follows the one that all pages share: colours in light and dark, and the font.
    """
    styles = f"{_read(STYLE_OF_ALL)}{style}"
    policy = f"default-src 'none'; img-src data:; style-src {_hash(styles)}; script-src {_hash(script)}"
    return _compiled(template).render(content, style=Markup(styles), script=Markup(script), policy=policy)


def _hash(asset: str) -> str:
    """The source expression by which a Content-Security-Policy admits an inline style or script (CSP Level 3)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(asset.encode()).digest()).decode()}'"


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _compiled(template: str) -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template)
