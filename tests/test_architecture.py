"""The rules of docs/architecture.md that no linter checks."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import quaestor
from quaestor._core import effects, many, pass_effects

ROOT = Path(__file__).parent.parent
CORE = Path(effects.__file__).parent
# That of branches holds that of a run.
VOCABULARIES = (get_args(effects.BranchFlow)[0], get_args(many.ManyFlow)[0], pass_effects.PassEffect)
EFFECTS = {cls.__name__ for vocabulary in VOCABULARIES for cls in get_args(vocabulary)}


def trees(folder: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(folder.glob("*.py")):
        yield path.name, ast.parse(path.read_text())


def dropped(tree: ast.Module) -> list[str]:
    """The effects that are built anywhere but in `yield from Effect(...)` or `yield from a_flow(Effect(...))`."""
    asked = {id(call) for node in ast.walk(tree) if isinstance(node, ast.YieldFrom) for call in ast.walk(node.value)}
    return [
        f"{node.func.id} in line {node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in EFFECTS
        and id(node) not in asked
    ]


def test_no_effect_is_dropped() -> None:
    """An effect that is built and not asked for with `yield from` would silently not happen."""
    assert {"ReadRecords", "Execute", "Record", "Emit"} <= EFFECTS
    program = (
        "Emit(1)\nyield Record('a')\nyield from Record('b')\nyield from settled(Record('c'), 1)\nsettled(Record('d'))"
    )
    assert dropped(ast.parse(program)) == ["Emit in line 1", "Record in line 2", "Record in line 5"]
    assert {name: dropped(tree) for name, tree in trees(CORE) if dropped(tree)} == {}


def test_every_effect_is_in_the_vocabulary() -> None:
    """What can be asked for is what a runner must perform: no effect is missing in the union that is matched on."""

    def descendants(cls: type) -> Iterator[type]:
        for child in cls.__subclasses__():
            yield child
            yield from descendants(child)

    assert {cls.__name__ for cls in descendants(effects.Ask)} - {"Command"} == EFFECTS


def test_public_names() -> None:
    """The public names are sorted, complete and there; a name that is not public is an AttributeError."""
    assert quaestor.__all__ == sorted(quaestor.__all__)
    assert dir(quaestor) == quaestor.__all__
    for name in quaestor.__all__:
        assert getattr(quaestor, name) is not None
    errors = [error.__name__ for error in quaestor.QuaestorError.__subclasses__()]
    assert {*errors, "QuaestorError"} <= set(quaestor.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = quaestor.nothing  # type: ignore[attr-defined]  # that is the point


def test_import_loads_no_driver() -> None:
    """`import quaestor` and registering migrations load neither a driver nor anyio nor asyncio."""
    program = (
        "import sys, quaestor\n"
        "quaestor.MigrationRegistry().register('a')(print)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "quaestor" in loaded
    assert not {"anyio", "asyncio", "bson", "motor", "pymongo"} & set(loaded)


def test_architecture_names_every_file() -> None:
    """The picture of the house in docs/architecture.md has the files of the package, all of them and no other."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    house = text[text.index("src/quaestor/") : text.index("\ntests/")]
    assert sorted(re.findall(r"^ +(\w+\.py)\s", house, re.MULTILINE)) == sorted(
        path.name for path in (ROOT / "src").rglob("*.py")
    )
