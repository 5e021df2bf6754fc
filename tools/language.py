"""Find phrases for which the project has another word, in pages, docstrings, messages and comments (`nox -s lint`).

Each thing has one name: the one that the field has for it. Checkers of English style don't know these; proselint found
170 places in this repository, and was right about one.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = ("*.md", ".github/**/*.md", "docs/**/*.md", "docs/**/*.rst")
MODULES = ("*.py", "src/**/*.py", "examples/**/*.py", "tools/**/*.py")

LANGUAGE = {
    r"(?:both|either|other|of one|of any|whose) colou?rs?": "sync and async; of either kind",
    r"go(?:es|ing)? on where it was": "resumes where it left off",
    r"how far it is": "progress; checkpoint",
    r"(?:takes?|taken|taking|took|gives?|gave) (?:back )?(?:the|its|their|a|no) lease(?! over)": "acquires; releases",
    r"lease (?:is|was|has been) (?:taken|given)(?! over)": "the lease is acquired; released",
    r"keepers?": "holder",
    r"the way is free": "the lease is free",
    r"rehears(?:e[sd]?|als?)": "dry run",
    r"do(?:es)? no harm": "is idempotent",
    r"side by side|in lanes": "concurrently; at the same time",
    r"mend(?:s|ed|ing)?": "fix; retry",
    r"g[eo]ts? over": "survives; retries",
    r"under way|whereabouts": "in progress; started",
    r"unless told": "by default",
    r"for as long as it takes": "without a limit",
    r"insist(?:s|ed|ing)?": "retries until the outcome is known; is shielded",
    r"(?:fail-over|time-out|time-stamp|roll-back)s?": "write it in one word",
    # As in "or it is logged, else.", but not in "nothing else." or "how else?"
    r"(?<!(?:hing|body|here|what)\s)(?<!(?:one|who|all|how)\s)(?<!or\s)else(?=[.,:;)])": "otherwise",
    r"(?<=,\s)for (?:it|they|there|nobody|nothing) (?:is|are|was|were|may|can|has|have|had|does|do|would|will|must)": (
        "because"
    ),
}
"""What not to say, and what to say. Only what is hardly ever right: a check that annoys is soon switched off."""

# A phrase may be on two lines.
PATTERN = re.compile("|".join(rf"(?<!\w)({each})(?!\w)".replace(" ", r"\s+") for each in LANGUAGE), re.IGNORECASE)
CODE = re.compile(
    r"^( *)(```|~~~).*?^\1\2|^(?: {4}|\t).*?$|``.+?``|`[^`\n]+`|\]\([^)]*\)|<[^>\n]+>", re.DOTALL | re.MULTILINE
)


class Finding(NamedTuple):
    """A phrase, its line, and what to say instead."""

    line: int
    phrase: str
    advice: str


def find_in_text(text: str, first: int = 1) -> Iterator[Finding]:
    """Find phrases in prose whose first line has this number. Code and addresses in it are skipped."""
    prose = CODE.sub(lambda code: re.sub(r"[^\n]", "-", code[0]), text)
    for found in PATTERN.finditer(prose):
        advice = list(LANGUAGE.values())[(found.lastindex or 0) - 1]
        yield Finding(first + text.count("\n", 0, found.start()), " ".join(found[0].split()), advice)


def find_in_module(source: str) -> Iterator[Finding]:
    """Find phrases in the strings and the comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from find_in_text(re.sub(r"^ +", "", node.value, flags=re.MULTILINE), node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from find_in_text(token.string, token.start[0])


def main(root: Path) -> int:
    """Write what is found below a folder; return 1 if there is anything."""
    findings = [(file, each) for file in _glob(root, PAGES) for each in find_in_text(file.read_text("utf-8"))]
    modules = (file for file in _glob(root, MODULES) if file != Path(__file__))
    findings += [(file, each) for file in modules for each in find_in_module(file.read_text("utf-8"))]
    for file, (line, phrase, advice) in findings:
        sys.stderr.write(f'{file.relative_to(root)}:{line}: instead of "{phrase}" write: {advice}\n')
    return int(bool(findings))


def _glob(root: Path, patterns: Iterable[str]) -> list[Path]:
    """Find files, without those that a build makes."""
    return [file for pattern in patterns for file in sorted(root.glob(pattern)) if "_build" not in file.parts]


if __name__ == "__main__":
    sys.exit(main(ROOT))
