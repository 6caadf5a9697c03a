"""Makes a page from a template, with all text escaped and a Content-Security-Policy.

The policy allows one style sheet and one script, by their hashes: no other script runs, and nothing is fetched or sent, even if
some text from a log were not escaped.
"""

import base64
import hashlib
from typing import Any


def render(template: str, **values: Any) -> str:
    """The text of a page; `values`: the variables of its template. Unpaired surrogates, which can't be written to a file, become
    question marks."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("drift.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style, script = (_hash(environment.get_template(name).render()) for name in ("page.css.j2", "browser.js.j2"))
    allowed = ["default-src 'none'", f"style-src {style}", "base-uri 'none'", "form-action 'none'"]
    if values.get("samples"):
        allowed.append(f"script-src {script}")
    text = environment.get_template(template).render(policy="; ".join(allowed), **values)
    return text.encode("utf-8", "replace").decode("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
