"""How Sphinx makes the pages of docs/ and the docstrings into HTML; `nox -s docs` calls it. No network is needed."""

import dataclasses
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.domains.python import PyObject

# The options of the commands are written anew by each build, by Typer itself. Its title is left out, for the page has
# one, and its lists of commands, for they cut every sentence short.
_TYPER = [sys.executable, "-m", "typer", "quaestor.cli.app", "utils", "docs", "--name", "quaestor"]
_page = subprocess.run(_TYPER, check=True, capture_output=True, encoding="utf-8").stdout
_page = re.sub(r"^# .*\n|\*\*Commands\*\*:\n\n(\* .*\n)+", "", _page)
_page = re.sub(
    r"(?m)^quaestor .*\n(?:\nquaestor .*\n)*", lambda one: "```console\n" + re.sub("\n+", "\n", one[0]) + "```\n", _page
)
(Path(__file__).parent / "_commands.md").write_text(_page, encoding="utf-8")

_pyproject = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
_address = _pyproject["tool"]["hatch"]["metadata"]["hooks"]["custom"]["address"]

project = "quaestor"
version = release = installed("mongo-quaestor")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_commands.md"]

default_role = "py:obj"  # in docstrings `single backticks` are a link where there is something to link to
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", ".*"),  # elsewhere they are code
    # Of Python and of frameworks, whose indexes would need the network:
    ("py:class", r"(celery|collections\.abc|contextlib|datetime|flask|opentelemetry|os|pymongo|starlette)\..*"),
    (
        "py:class",
        r"(quaestor\.([\w.]+\.)?)?(AfterCrash|App|D|D_co|F|G|MarkState|Phase|State)",
    ),  # type variables and literals
    ("py:class", "datetime|timedelta"),  # in a dict of a dataclass, or of the standard library
    ("py:exc", "ImproperlyConfigured"),  # Django's
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # links as on GitHub: tutorial.md#undo

autodoc_default_options = {"members": True, "inherited-members": "BaseException, OSError"}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
napoleon_use_ivar = True
napoleon_attr_annotations = True

# A copied console block has the commands, without the prompt and the output.
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"

html_theme = "furo"
html_theme_options = {
    "light_logo": "logo-light.svg",
    "dark_logo": "logo-dark.svg",
    "light_css_variables": {  # the colors of the logo
        "color-brand-primary": "#7a1f2e",
        "color-brand-content": "#8f2435",
        "color-brand-visited": "#8f2435",
    },
    "dark_css_variables": {
        "color-brand-primary": "#f0b43c",
        "color-brand-content": "#f0b43c",
        "color-brand-visited": "#f0b43c",
    },
    "top_of_page_buttons": [],
}
if ".dev" in release:
    html_theme_options["announcement"] = (
        f"These pages describe {release.partition('.dev')[0]}, which isn't released yet: until then, run "
        '<code>pip install ".[cli]"</code> in a clone of the repository.'
    )
pygments_dark_style = "github-dark"
html_title = f"quaestor {release}"
html_baseurl = f"{_address}/"
html_static_path = ["_static", "pictures"]  # the pictures of the README
html_favicon = "_static/logo-light.svg"
html_css_files = ["custom.css"]
html_show_copyright = False
html_show_sphinx = False


def leave_out_fields(*arguments: Any) -> tuple[str, str] | None:
    """Leave out the signature of a dataclass: nobody but quaestor makes one, and its attributes are listed below."""
    return ("", "") if dataclasses.is_dataclass(arguments[3]) else None


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # Sphinx calls them variables
    app.connect("autodoc-process-signature", leave_out_fields)
