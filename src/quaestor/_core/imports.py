"""Importing the history of another tool: which of its migrations are applied, and what they are called here.

An adapter (`quaestor.adapters`) reads the tool's documents. Nothing is guessed: whatever isn't certain is unplaced,
with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from itertools import chain
from typing import Any, Literal, TypeAlias

from quaestor._core.catalog import Catalog
from quaestor._core.corrections import sort_names
from quaestor._core.definition import check_text
from quaestor._core.plan import Import, Marks, Plan, RecordChange, Records, find_marks, has_stops
from quaestor._text import find_similar
from quaestor.errors import InvalidOptionError, UnknownMigrationError
from quaestor.status import ImportedMigration, ImportResult, Tool, UnplacedMigration

Document: TypeAlias = Mapping[str, Any]

_MOST_HINTS = 10  # finding a similar name is slow, and all names may be wrong

EntryState: TypeAlias = Literal["applied", "not applied", "unclear"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One migration in the history of another tool."""

    name: object  # there; a str, unless people have changed it
    state: EntryState
    reason: str = ""  # why it isn't applied, or isn't clear
    applied_at: object = None  # as stored: a naive datetime, unless people have changed it


def find_same(name: str, known: Collection[str]) -> list[str]:
    """Find the migrations here that a name means, if both have the same names."""
    return [name] if name in known else []


@dataclass(frozen=True, slots=True)
class Adapter:
    """How a tool keeps its history."""

    tool: Tool
    collection: str  # its default
    read: Callable[[Sequence[Document]], Iterable[Entry]]
    """Reads its documents, sorted by `_id`. There may be several entries for one name."""
    find: Callable[[str, Collection[str]], list[str]] = find_same
    """Finds the migrations here that a name there may mean."""
    find_gaps: Callable[[Sequence[Document], Collection[str]], Iterable[Entry]] = lambda _documents, _known: ()
    """Finds the migrations here that count as applied there, although it has no entry for them."""
    is_local: bool = False  # whether it stores local time


@dataclass(frozen=True, slots=True)
class Source:
    """A history to import: the arguments of an import, checked."""

    adapter: Adapter
    collection: str
    names: Mapping[str, str]  # theirs, with ours
    zone: tzinfo


def make_source(
    adapter: Adapter, catalog: Catalog, *, names: object = None, collection: object = None, timezone: object = None
) -> Source:
    """Check the arguments of an import."""
    given = {} if names is None else names
    if not isinstance(given, Mapping) or not all(type(one) is str for pair in given.items() for one in pair):
        raise InvalidOptionError(
            f"names must be a mapping of the names in {adapter.tool} to those here, all of them str, not {given!r:.80}."
        )
    catalog.check()
    known = list_known(catalog)
    if unknown := {name: find_similar(name, known) for name in given.values() if name not in known}:
        raise UnknownMigrationError(unknown)
    found = adapter.collection if collection is None else check_text("collection", collection, InvalidOptionError)
    if "$" in found or found.startswith(("system.", ".")) or found.endswith(".") or ".." in found:
        raise InvalidOptionError(f"collection must be the name of a collection, not {found!r}.")
    return Source(adapter, found, dict(given), _find_zone(adapter, timezone))


def _find_zone(adapter: Adapter, timezone: object) -> tzinfo:
    if timezone is None:
        return UTC
    if not adapter.is_local:
        raise InvalidOptionError(f"{adapter.tool} stores its dates in UTC. Leave out timezone.")
    from zoneinfo import ZoneInfo  # late: few imports need it

    name = check_text("timezone", timezone, InvalidOptionError)
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # ZoneInfo raises all of them for a wrong name
        raise InvalidOptionError(
            f"There is no time zone {name!r}. Pass a name such as 'Europe/Berlin' (on Windows: pip install tzdata)."
        ) from None


def list_known(catalog: Catalog) -> Collection[str]:
    """List the names that a record may have: registered, replaced or retired ones."""
    return {*catalog.definitions, *catalog.replaced, *catalog.retired}


@dataclass(slots=True)
class _Placement:
    placed: dict[str, ImportedMigration] = field(default_factory=dict)  # by our names
    recorded: set[str] = field(default_factory=set)  # ours, whatever the tool says of them
    not_applied: list[UnplacedMigration] = field(default_factory=list)
    unplaced: list[UnplacedMigration] = field(default_factory=list)


def plan_import(
    source: Source, documents: Sequence[Document], catalog: Catalog, records: Records, marks: Marks
) -> tuple[Plan, ImportResult]:
    """Plan to record what the tool has applied and isn't recorded here. Returns the result as well."""
    found = _place(source, documents, list_known(catalog), records.applied.keys())
    dates = {name: one.applied_at for name, one in found.placed.items()}
    todo = _plan_changes(catalog, records, marks, dates)
    result = ImportResult(
        source.adapter.tool,
        source.collection,
        imported=tuple(found.placed[change.name] for change in todo),
        recorded=tuple(sorted(found.recorded)),
        not_applied=tuple(found.not_applied),
        unplaced=tuple(found.unplaced),
    )
    return todo, result


def _plan_changes(catalog: Catalog, records: Records, marks: Marks, dates: Mapping[str, datetime]) -> Plan:
    """Plan to record these migrations with these dates, unless they are recorded.

    A dependency may be pending: what another tool has applied is applied, whatever its order was.
    """
    written = [name for name in dates if name not in records.applied]
    replaced = {name: catalog.list_replaced(name) for name in written}
    after = catalog.view({*records.applied, *dates, *chain.from_iterable(replaced.values())})
    others, ordered = sort_names(after, {*written})
    there, changes = {*records.applied, *dates}, list[RecordChange]()
    for name in [*others, *ordered]:
        missing = [old for old in replaced[name] if old not in there]
        there.update(missing)  # of a chain, several may replace it
        change = Import(
            name,
            applies=True,
            applied_at=dates[name],
            replaces=dict.fromkeys(missing, ()),
            stops=has_stops(catalog, [name]),
            marks=find_marks((name, *replaced[name]), marks),
        )
        changes.append(change)
    return Plan(changes)


def _place(
    source: Source, documents: Sequence[Document], known: Collection[str], recorded: Collection[str]
) -> _Placement:
    adapter, result = source.adapter, _Placement()
    by_name: dict[str, list[Entry]] = {}
    for entry in (*adapter.read(documents), *adapter.find_gaps(documents, known)):
        if type(entry.name) is str:  # not bson's Code, which only Python takes for a str
            by_name.setdefault(entry.name, []).append(entry)
        else:
            result.unplaced.append(UnplacedMigration("?", "one of its records has no name"))
    means: dict[str, list[ImportedMigration]] = {}
    for theirs in sorted(by_name):
        entry = _merge(by_name[theirs])
        ours = [source.names[theirs]] if theirs in source.names else adapter.find(theirs, known)
        if len(ours) == 1 and ours[0] in recorded:  # by an earlier import, or a person who has checked it
            result.recorded.add(ours[0])
            continue
        if entry.state == "not applied":
            result.not_applied.append(UnplacedMigration(theirs, entry.reason))
            continue
        hints = known if len(result.unplaced) < _MOST_HINTS else ()
        one = _place_one(theirs, entry, ours, hints, source.zone)
        if isinstance(one, UnplacedMigration):
            result.unplaced.append(one)
        else:
            means.setdefault(one.name, []).append(one)
    for name, meant in means.items():
        if len(meant) == 1:
            result.placed[name] = meant[0]
            continue
        for one in meant:
            others = ", ".join(other.theirs for other in meant if other is not one)
            result.unplaced.append(UnplacedMigration(one.theirs, f"it would be {name} here, and so would {others}"))
    result.unplaced.sort(key=lambda one: one.name)
    return result


def _place_one(
    name: str, entry: Entry, ours: Sequence[str], known: Collection[str], zone: tzinfo
) -> ImportedMigration | UnplacedMigration:
    if entry.state == "unclear":
        return UnplacedMigration(name, entry.reason)
    if not isinstance(entry.applied_at, datetime):
        return UnplacedMigration(name, "its record has no date")
    if len(ours) != 1:
        return UnplacedMigration(name, _explain_name(name, ours, known))
    try:
        applied_at = entry.applied_at.replace(tzinfo=zone).astimezone(UTC)
    except OverflowError:
        return UnplacedMigration(name, "its date, in UTC, is before the year 1 or after 9999")
    return ImportedMigration(ours[0], name, applied_at)


def _explain_name(name: str, ours: Sequence[str], known: Collection[str]) -> str:
    if ours:
        return f"it may be {' or '.join(ours)} here"
    similar = find_similar(name, known)
    return "no migration here has this name" + (f"; did you mean {similar}?" if similar else "")


def _merge(entries: Sequence[Entry]) -> Entry:
    """Make one entry of all that a name has."""
    if unclear := next((entry for entry in entries if entry.state == "unclear"), None):
        return unclear
    if len({entry.state for entry in entries}) > 1:
        reason = "it has several records: some say that it is applied, and some that it isn't"
        return replace(entries[0], state="unclear", reason=reason)
    dates = [entry.applied_at for entry in entries if isinstance(entry.applied_at, datetime)]
    return replace(entries[0], applied_at=max(dates, default=None))
