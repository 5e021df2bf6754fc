"""How Sphinx makes the pages of docs/ and the docstrings into HTML; `nox -s docs` calls it. No network is needed."""

import re
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

# The options of the commands are written anew by each build, by Typer itself. Its title is left out, for the page has
# one, and its lists of commands, for they cut every sentence short.
_TYPER = [sys.executable, "-m", "typer", "quaestor.cli.app", "utils", "docs", "--name", "quaestor"]
_page = subprocess.run(_TYPER, check=True, capture_output=True, encoding="utf-8").stdout
_page = re.sub(r"^# .*\n|\*\*Commands\*\*:\n\n(\* .*\n)+", "", _page)
_page = re.sub(
    r"(?m)^quaestor .*\n(?:\nquaestor .*\n)*", lambda one: "```console\n" + re.sub("\n+", "\n", one[0]) + "```\n", _page
)
(Path(__file__).parent / "_commands.md").write_text(_page, encoding="utf-8")

project = "quaestor"
version = release = installed("mongo-quaestor")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_commands.md"]

default_role = "py:obj"  # in docstrings `single backticks` are a link where there is something to link to
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", ".*"),  # elsewhere they are code
    ("py:class", r"(collections\.abc|datetime)\..*"),  # of Python, whose index would need the network
]
myst_heading_anchors = 3  # links as on GitHub: guide.md#undo

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give the types, with their units
napoleon_use_ivar = True
napoleon_attr_annotations = False

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"quaestor {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_copyright = False
html_show_sphinx = False
