"""Write the imports of a new module as ruff and isort sort them, and lists as formatters fold them."""

import sys
from collections.abc import Iterable, Mapping

from quaestor.cli.bundle import Bundle
from quaestor.cli.loader import Location
from quaestor.cli.settings import CommandError
from quaestor.cli.sources import Import

WIDTH = 88
"""Columns. A list with an item in each line stays like that with formatters that have longer lines, too."""


def fold(start: str, items: Iterable[str], end: str, width: int = WIDTH) -> str:
    """Write a list in one line, or each item in a line of its own."""
    items = list(items)
    line = start + ", ".join(items) + end
    if "\n" not in line and len(line) <= width:
        return line
    lines = [f"    {one},".replace("\n", "\n    ") for one in items]
    return "\n".join([start, *lines, end])


def write_imports(bundle: Bundle, location: Location) -> str:
    """Write the imports, sorted as ruff and isort sort them."""
    registry = Import(location.module, name := location.attribute.partition(".")[0], name)
    found = {**bundle.imports, registry: False}
    names = {one: bundle.name(one) for one in bundle.imports} | {registry: name}
    for_types = {one: names[one] for one, is_typing in found.items() if is_typing}
    others = {one: name for one, name in names.items() if one not in for_types}
    blocks = ["from __future__ import annotations"] if bundle.has_future else []
    if for_types:
        others[Import("typing", "TYPE_CHECKING", "TYPE_CHECKING")] = "TYPE_CHECKING"
    blocks += _sort_imports(others, location)
    if for_types:
        lines = "\n\n".join(_sort_imports(for_types, location)).splitlines()
        blocks.append("\n".join(["if TYPE_CHECKING:", *(f"    {line}".rstrip() for line in lines)]))
    return "\n\n".join(blocks)


def _sort_imports(names: Mapping[Import, str], location: Location) -> list[str]:
    """Write the imports of the standard library, of installed packages, and of the project."""
    sections: list[list[tuple[object, str]]] = [[], [], []]
    members: dict[str, list[str]] = {}
    for one, name in names.items():
        if one.attribute is not None and name == one.attribute:
            members.setdefault(one.module, []).append(name)
            continue
        is_path = one.attribute is None and "." in one.module
        if is_path and name != one.name:
            raise CommandError(
                f"{one.name!r} means different things in the modules of these migrations, and `import {one.module}` "
                "can't be renamed. Import what is needed from that module by name."
            )
        imported = f"import {one.module}" if one.attribute is None else f"from {one.module} import {one.attribute}"
        renamed = "" if is_path or name == (one.attribute or one.module) else f" as {name}"
        key = one.module.lower(), _sort_key(one.attribute or ""), bool(renamed), name
        sections[_find_section(one.module, location)].append(((one.attribute is not None, *key), imported + renamed))
    for module, found in members.items():
        ordered = sorted(found, key=_sort_key)
        line = f"from {module} import {', '.join(ordered)}"
        line = line if len(line) <= WIDTH else fold(f"from {module} import (", ordered, ")")
        key = module.lower(), _sort_key(ordered[0]), False, ""
        sections[_find_section(module, location)].append(((True, *key), line))
    return ["\n".join(line for _, line in sorted(section)) for section in sections if section]


def _find_section(module: str, location: Location) -> int:
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names:
        return 0
    places = (location.folder, location.folder / "src")
    is_own = any((place / root).is_dir() or (place / f"{root}.py").is_file() for place in places)
    return 2 if is_own or root == location.module.partition(".")[0] else 1


def _sort_key(name: str) -> tuple[bool, bool, str]:
    """Put constants first, then classes, then other names."""
    return not name.isupper(), not name[:1].isupper(), name.lower()
