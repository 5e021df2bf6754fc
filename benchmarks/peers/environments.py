"""An environment for each tool, with what is published now."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
_USABLE = "import ensurepip, sys; sys.exit(sys.version_info.releaselevel != 'final')"


class NotInstalledError(RuntimeError):
    """It was not installed; `str()` says why, in a sentence."""


def newest_python() -> str:
    """The newest Python on PATH, or this one: a tool may want a newer one, and all are measured on the same."""
    this = sys.version_info.minor
    for minor in range(this + 5, this, -1):
        found = shutil.which(f"python3.{minor}")
        if found and not subprocess.run([found, "-c", _USABLE], capture_output=True, check=False).returncode:  # noqa: S603 - a Python
            return found
    return sys.executable


def make(folder: Path, python: str, requirements: Sequence[str]) -> Path:
    """Make an environment of this Python with these requirements, and return its Python. With uv, that is quicker.

    Raises:
        NotInstalledError: They cannot be installed.
    """
    made = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if uv := shutil.which("uv"):
        make_it = [uv, "venv", "--quiet", "--python", python, str(folder)]
        install = [uv, "pip", "install", "--quiet", "--python", str(made)]
    else:
        make_it = [python, "-m", "venv", str(folder)]
        install = [str(made), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(make_it, check=True)  # noqa: S603 - uv, or a Python
    command = [*install, *requirements]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - uv, or pip
    if ended.returncode:
        raise NotInstalledError(reason(ended.stderr))
    return made


def reason(said: str) -> str:
    """Why pip or uv did not install something, from what it wrote."""
    if wanted := re.findall(r"(?:Requires-Python |does\s+not\s+satisfy\s+Python)([^;\s]+)", said):
        return f"it needs Python {wanted[-1]}"
    errors = re.findall(r"^(?:ERROR: |error: )(.+)$", said, re.MULTILINE) or ["it was not installed"]
    return without_places(errors[-1])


def without_places(text: str) -> str:
    """The first line of a message, without addresses and paths, and not long."""
    line = re.sub(r"\S*[/\\]\S*", "...", text.strip().partition("\n")[0])
    return line if len(line) <= 120 else f"{line[:117]}..."
