"""The proof of `quaestor squash`: in an empty database, a replacement does what the migrations that it replaces do."""

import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from inspect import isawaitable
from typing import Any, TypeAlias

from bson import CodecOptions, ObjectId, Timestamp
from pymongo import ReadPreference

from quaestor._text import add_note, find_similar, format_count
from quaestor.cli import signals
from quaestor.cli.progress import RunProgress
from quaestor.cli.settings import CommandError
from quaestor.cli.squash import find_dependencies, reach
from quaestor.cli.target import Target
from quaestor.errors import UnknownMigrationError
from quaestor.registry import MigrationRegistry

_SKEW = timedelta(minutes=5)
"""How far the clocks of the server and of this process may be apart."""

_SHOWN = 5  # fields
_CODEC: Any = CodecOptions()  # not the application's, whose types may say that all are equal

_Document: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""The `_id`, and a digest of each field. What a run itself makes, such as ObjectIds, is left out."""


@dataclass
class _Collection:
    """A collection or a view, and what is in it."""

    options: dict[str, str]
    indexes: dict[str, str] = field(default_factory=dict)
    documents: Counter[_Document] = field(default_factory=Counter)


def prove(target: Target, name: str) -> tuple[list[str], str]:
    """Apply a migration to an empty database, and what it replaces to another one.

    Returns the differences, and what there is in both. Both databases are temporary.
    """
    registries = _split(target.registry, name)
    prefix, token, since = target.settings.value("prefix"), secrets.token_hex(6), datetime.now(UTC)
    # Not named like the configured one, which a pattern of another command may match.
    databases = [f"quaestor_squash_{token}_{side}" for side in ("old", "new")]
    found: list[dict[str, _Collection]] = []
    _ = target.db  # reports wrong settings first
    failure: Exception | None = None
    with signals.explain_interruption(RunProgress(target.clean), target.server.loop), redirect_stdout(sys.stderr):
        try:
            for registry, database in zip(registries, databases, strict=True):
                target.run_elsewhere(registry, database)
                found.append(target.read(database, lambda db: _read(db, prefix, since)))
        except Exception as error:
            applied = f"{name!r}" if found else f"the migrations that {name!r} replaces"
            add_note(error, f"while applying {applied} to an empty database")
            failure = error
            raise
        finally:
            try:
                for database in databases:
                    target.read(database, _drop)
            except Exception as error:
                temporary = f"{' and '.join(databases)}, which were only for the proof"
                if failure is None:
                    add_note(error, f"while dropping {temporary}")
                    raise
                add_note(failure, f"and can't drop {temporary}")
    return list(_compare(found[0], found[1], name)), _describe(found[1])


def _split(registry: MigrationRegistry, name: str) -> tuple[MigrationRegistry, MigrationRegistry]:
    """Make two registries: with what a migration replaces, and with the migration. Both have what either needs."""
    known = registry.migrations
    if name not in known:
        raise UnknownMigrationError({name: find_similar(name, known)})
    old = known[name].replaces
    if not old:
        raise CommandError(f"Migration {name!r} replaces nothing, so there is nothing to compare it with.")
    if gone := [one for one in old if one not in known]:
        raise CommandError(
            f"{', '.join(map(repr, gone))} can't be applied any more, because the code is gone. Prove a replacement "
            "before you remove what it replaces."
        )
    needs, needs_before = find_dependencies(registry), find_dependencies(registry, without=name)
    if name not in needs:
        raise CommandError(f"Migration {name!r} is replaced itself. Prove what replaces it.")
    others = {*reach(needs, [name]), *reach(needs_before, old)} - {name, *old}
    return (
        _copy(registry, needs_before, reach(needs_before, [*others, *old])),
        _copy(registry, needs, reach(needs, [*others, name])),
    )


def _copy(registry: MigrationRegistry, needs: Mapping[str, Sequence[str]], names: Iterable[str]) -> MigrationRegistry:
    """Make a registry of these migrations, which replace nothing and wait for nothing."""
    copy = MigrationRegistry()
    for name in names:
        one = registry.migrations[name]
        copy.register(name, needs[name], transaction=one.transaction)(one.execute)
        guard: Any
        for guard in one.preconditions:
            copy.register_precondition(name)(guard)
        for guard in one.verifications:
            copy.register_verification(name)(guard)
    return copy


async def _drop(db: Any) -> None:
    await _get(db.client.drop_database(db.name))


async def _get(answer: Any) -> Any:
    return await answer if isawaitable(answer) else answer


async def _iterate(cursor: Any) -> AsyncIterator[Any]:
    cursor = await _get(cursor)
    if hasattr(cursor, "__aiter__"):
        async for one in cursor:
            yield one
    else:
        for one in cursor:
            yield one


async def _read(db: Any, prefix: str, since: datetime) -> dict[str, _Collection]:
    """Read what is in a database, without quaestor's own collections."""
    found: dict[str, _Collection] = {}
    own = {f"{prefix}_migrations{part}" for part in ("", "_lock", "_history")}
    try:
        listed = [one async for one in _iterate(db.list_collections())]
    except NotImplementedError:  # mongomock
        listed = [{"name": name} for name in await _get(db.list_collection_names())]
    for one in listed:
        name = one["name"]
        if name.startswith("system.") or name in own:
            continue
        options = {"type": one.get("type", "collection"), **one.get("options", {})}
        found[name] = seen = _Collection(
            {key: _write(value, since, is_ordered=key == "pipeline") for key, value in options.items()}
        )
        if options["type"] == "view":
            continue
        collection = db.get_collection(name, codec_options=_CODEC, read_preference=ReadPreference.PRIMARY)
        indexes = await _get(collection.index_information())
        seen.indexes = {index: _write(options, since) for index, options in indexes.items()}
        async for document in _iterate(collection.find()):
            fields = tuple(sorted((key, _digest(_write(value, since))) for key, value in document.items()))
            seen.documents[_write(document.get("_id"), since), fields] += 1
    return found


def _digest(text: str) -> str:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=12).hexdigest()


def _write(value: Any, since: datetime, *, is_ordered: bool = False) -> str:
    """Write a value as text: with its type, and without what the run has made; by default without an order of fields.

    A pipeline is ordered: in it, `$sort` has fields.
    """
    if isinstance(value, Mapping):
        fields = [f"{key!r}:{_write(one, since, is_ordered=is_ordered)}" for key, one in value.items()]
        return "{" + ",".join(fields if is_ordered else sorted(fields)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_write(one, since, is_ordered=is_ordered) for one in value) + "]"
    made: datetime | None = None
    with suppress(ValueError, OverflowError):
        match value:
            case ObjectId():
                made = value.generation_time
            case Timestamp():
                made = value.as_datetime()
            case datetime():
                made = value.replace(tzinfo=value.tzinfo or UTC)
    kind = type(value).__name__
    is_made = made is not None and since - _SKEW <= made <= datetime.now(UTC) + _SKEW
    return kind if is_made else f"{kind}({value!r})"


def _compare(old: Mapping[str, _Collection], new: Mapping[str, _Collection], name: str) -> Iterator[str]:
    """Say what differs, without values."""
    after = {True: "only in the database of the old migrations", False: f"only in the database of {name}"}
    for collection in sorted({*old, *new}):
        if collection not in old or collection not in new:
            yield f"{collection}: {after[collection in old]}."
            continue
        before, now = old[collection], new[collection]
        if changed := _find_changed(before.options, now.options):
            yield f"{collection}: other options: {', '.join(changed)}."
        for index in _find_changed(before.indexes, now.indexes):
            is_both = index in before.indexes and index in now.indexes
            yield f"{collection}: index {index} {'differs' if is_both else after[index in before.indexes]}."
        yield from (f"{collection}: {said}." for said in _compare_documents(before.documents, now.documents, after))


def _find_changed(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))


def _compare_documents(old: Counter[_Document], new: Counter[_Document], after: Mapping[bool, str]) -> Iterator[str]:
    gone, come = dict((old - new).keys()), dict((new - old).keys())  # by `_id`
    both = {
        one: _find_changed(dict(gone[one]), dict(come[one])) for one in gone if one in come and not one.isidentifier()
    }
    if both:
        fields = sorted({name for changed in both.values() for name in changed})
        more = ", ..." if len(fields) > _SHOWN else ""
        said = "differ" if len(both) > 1 else "differs"
        yield f"{format_count(len(both), 'document')} {said}, in {', '.join(fields[:_SHOWN])}{more}"
    for is_old, missing in ((True, old - new), (False, new - old)):
        number = sum(count for (one, _), count in missing.items() if one not in both)
        if number:
            yield f"{format_count(number, 'document')} {after[is_old]}"


def _describe(found: Mapping[str, _Collection]) -> str:
    """Say how much there is; "" if there is nothing."""
    indexes = sum(len(one.indexes.keys() - {"_id_"}) for one in found.values())
    documents = sum(one.documents.total() for one in found.values())
    counts = f"{format_count(len(found), 'collection')}, {indexes:,} {'index' if indexes == 1 else 'indexes'}"
    return f"{counts}, {format_count(documents, 'document')}" if found else ""
