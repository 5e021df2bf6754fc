"""Performing a pass in the colour of its migration's function, with any driver."""

import asyncio
import random
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any, assert_never

import pymongo
from bson.codec_options import DatetimeConversion
from pymongo.errors import PyMongoError

from quaestor._core import effects, pass_effects, passes
from quaestor._core.checkpoint import Checkpoint, Source, check_projection
from quaestor._core.definition import Colour
from quaestor._core.effects import Command
from quaestor._core.lease import PATIENCE, Terms
from quaestor._core.pass_effects import PassEffect
from quaestor._hosts import bodies
from quaestor._hosts import shield as interrupts
from quaestor._hosts.drive import drive, drive_async
from quaestor._hosts.setup import Setup, now
from quaestor._mongo import drivers as databases
from quaestor._mongo import outcomes as faults
from quaestor._mongo import progress, transactions
from quaestor._mongo.transactions import Session, awaited
from quaestor.context import AsyncMigrationContext, MigrationContext, forget_around, within
from quaestor.errors import BatchesInTransactionError, InvalidOptionError


class _Table:
    """What both are made of.

    Args:
        setup: That of the runner.
        terms: Those of the run.
        sessions: All sessions of the run; the pass may add one.
        name: The migration.
        colour: That of its function.
    """

    def __init__(self, setup: Setup, terms: Terms, sessions: list[Session], name: str, colour: Colour) -> None:
        self._setup = setup
        self._terms = terms
        self._sessions = sessions
        self._name = name
        self._colour = colour
        self._own: list[Session] = []
        self._db = setup.databases[colour]
        self._lock = databases.lock_collection(self._db, setup.prefix, write_concern=1)
        self._kept = databases.progress_collection(self._db, setup.prefix)

    def source(self, collection: Any, filter: Any, projection: Any, *, transaction: bool) -> Source:  # noqa: A002
        """The checked arguments of a pass.

        Raises:
            InvalidOptionError: One of them cannot be used.
            BatchesInTransactionError: There is a transaction already.
        """
        self.check_outside()
        databases.check_collection(collection, self._colour)
        if filter is not None and not isinstance(filter, Mapping):
            raise InvalidOptionError(f"filter must be a dict, not {filter!r:.80}.")
        check_projection(projection)
        if transaction and not collection.write_concern.is_server_default:
            raise InvalidOptionError(
                f"The collection {collection.name!r} has the write concern {collection.write_concern.document}, which "
                "MongoDB refuses in a transaction: begin the migration with "
                "`db = db.with_options(write_concern=WriteConcern())` and use that. (Such a transaction is committed "
                "with majority concern whatever it says.)"
            )
        collection = databases.on_primary(collection)
        options = databases.codec_options(collection)
        if options.datetime_conversion is DatetimeConversion.DATETIME_CLAMP or options.unicode_decode_error_handler in {
            "ignore",
            "replace",
        }:
            raise InvalidOptionError(
                f"The `_id`s of {collection.name!r} do not survive the codec options of this collection, which change "
                "what they cannot decode, and a pass knows by them where it is: use others, by "
                "`with_options(codec_options=...)`."
            )
        self._kept = databases.progress_collection(self._db, self._setup.prefix, options)
        database, where = collection.database.name, deepcopy(filter or {})  # what a caller changes later is not ours
        return Source(
            collection,
            collection.name if database == self._db.name else f"{database}.{collection.name}",
            where,
            deepcopy(projection),
            progress.fingerprint(f"{database}.{collection.name}", where, options),
        )

    def check_outside(self) -> None:
        """Check that there is no transaction around the pass.

        Raises:
            BatchesInTransactionError: There is.
        """
        if transactions.is_within():
            raise BatchesInTransactionError(self._name)

    def close(self) -> None:
        """Let other passes have the session."""
        for session in self._own:
            session.in_use.release()

    def _allowance(self, command: Command[Any]) -> float | None:
        """How long a command may take, in seconds; None: as long as the driver takes, for it is a user's query."""
        match command:
            case (
                pass_effects.ReadBatch()
                | pass_effects.FindHighest()
                | pass_effects.CountAll()
                | pass_effects.CountMatching()
                | pass_effects.CountSampled()
            ):
                return None
            case _:
                return min(self._terms.ttl, PATIENCE)

    def _takes_session(self) -> bool:
        """Take a session of this colour that nobody uses, if there is one."""
        for session in self._sessions:
            if session.colour == self._colour and session.in_use.acquire(blocking=False):
                self._own.append(session)
                return True
        return False

    def _add(self, session: Session) -> None:
        session.in_use.acquire()
        self._own.append(session)
        self._sessions.append(session)

    def _known_members(self) -> list[str]:
        return [f"{host}:{port}" for host, port in self._db.client.topology_description.server_descriptions()]


def arguments(
    setup: Setup, terms: Terms, sessions: list[Session], effect: effects.Execute | effects.Transact
) -> tuple[Any, bodies.Context]:
    """What the function of a change is called with: the database of its colour, and the context."""
    change, place = effect.change, effect.place
    undo = not change.applies
    known = (setup, terms, sessions, place.name)
    forget_around()
    passes_of_it = passes.Passes(place, effect.turn, undo=undo)
    context: bodies.Context
    match change.colour:
        case "sync":
            context = MigrationContext(
                place, setup.tell, now, undo=undo, passes=passes_of_it, table=partial(SyncPassTable, *known)
            )
        case "async":
            context = AsyncMigrationContext(
                place, setup.tell, now, undo=undo, passes=passes_of_it, table=partial(AsyncPassTable, *known)
            )
        case _:
            assert_never(change.colour)
    return setup.databases[change.colour], context


class SyncPassTable(_Table):
    """Performs the effects of one pass of a `def` function."""

    def __init__(self, setup: Setup, terms: Terms, sessions: list[Session], name: str) -> None:
        super().__init__(setup, terms, sessions, name, "sync")
        self._beside = interrupts.Beside()

    def close(self) -> None:
        """Give back what the pass had."""
        super().close()
        self._beside.close()

    def perform(self, effect: PassEffect) -> object:
        """Do what the effect asks for, and answer."""
        self.check_outside()
        if not isinstance(effect, Command):
            return self._perform(effect)
        try:
            with pymongo.timeout(self._allowance(effect)):
                return self._perform(effect)
        except PyMongoError as error:
            return faults.answer(effect, error)

    def _perform(self, effect: PassEffect) -> object:  # noqa: C901, PLR0911, PLR0912 - it is one table
        match effect:
            case pass_effects.FindPasses(migration, undo):
                return progress.finished(self._kept.find(progress.of_migration(migration, undo), progress.KEYS))
            case pass_effects.ClaimCheckpoint():
                claimed = self._kept.find_one_and_update(**progress.claim(effect))
                return None if claimed is None else progress.checkpoint(claimed)
            case pass_effects.SaveCheckpoint(key, checkpoint, token):
                return bool(self._kept.update_one(**progress.saving(key, checkpoint, token)).matched_count)
            case pass_effects.FindCheckpoint(key, token):
                found = self._kept.find_one(progress.owned(key, token))
                return None if found is None else progress.checkpoint(found)
            case pass_effects.IdentifyCollection(source):
                if databases.is_mock(self._db):
                    return None
                database, name = source.collection.database, source.collection.name
                return progress.collection_id(database.command("listCollections", filter={"name": name}))
            case pass_effects.FindHighest(source, others):
                highest = source.collection.find(progress.of_other_types(others), {"_id": 1}).sort("_id", -1).limit(1)
                return tuple(document["_id"] for document in highest)
            case pass_effects.CountAll(source):
                return source.collection.estimated_document_count()
            case pass_effects.CountMatching(source):
                return source.collection.count_documents(source.filter)
            case pass_effects.CountSampled(source, size):
                sampled = source.collection.aggregate(progress.sampled(source.filter, size))
                return next((document["matching"] for document in sampled), 0)
            case pass_effects.ReadBatch(source, checkpoint, limit):
                rest = source.collection.find(progress.from_here(source.filter, checkpoint), source.projection)
                rest = rest.sort("_id", 1).limit(limit).batch_size(limit)
                return list(rest) if databases.is_mock(self._db) else rest.to_list()  # quicker; the mock has none
            case pass_effects.ReadBeside(read, save):
                return self._beside.call(partial(self.perform, read), partial(self.perform, save))
            case pass_effects.HandOver(batch, body, where):
                with within(where):
                    bodies.hand_over(self._name, body, batch)
                return None
            case effects.AskForTransactions():
                return databases.has_transactions(self._db)
            case pass_effects.TakeSession():
                if not self._takes_session():
                    self._add(transactions.open_session(self._db))
                return tuple(session.id for session in self._sessions)
            case pass_effects.TransactBatch(key, token, source, checkpoint, size, body):
                session = self._own[0]
                work = partial(passes.batch, key, source, checkpoint, size, body)

                def record(after: Checkpoint) -> bool:
                    saving = progress.saving(key, after, token)
                    return bool(self._kept.update_one(**saving, session=session.driver).matched_count)

                return transactions.attempt(session, lambda: drive(work(), self._perform), record)
            case pass_effects.CommitBatchAgain():
                return transactions.commit_again(self._own[0])
            case pass_effects.ReadLag():
                if databases.is_mock(self._db):
                    return 0.0
                reply = self._db.client.admin.command("replSetGetStatus")
                return progress.lag(reply, self._known_members())
            case effects.CheckLease():
                bodies.end_if_cancelled()
                return bool(self._lock.update_one(**self._setup.check(self._terms, effect)).matched_count)
            case effects.Now():
                return now()
            case effects.Sleep(shortest, longest):
                bodies.sleep(random.uniform(shortest, longest))  # noqa: S311 - to spread, not to hide
                return None
            case effects.Emit(event):
                return self._setup.tell(event)
            case _:
                assert_never(effect)


class AsyncPassTable(_Table):
    """Performs the effects of one pass of an `async def` function."""

    def __init__(self, setup: Setup, terms: Terms, sessions: list[Session], name: str) -> None:
        super().__init__(setup, terms, sessions, name, "async")

    async def perform(self, effect: PassEffect) -> object:
        """Do what the effect asks for, and answer."""
        self.check_outside()
        if not isinstance(effect, Command):
            return await self._perform(effect)
        try:
            with pymongo.timeout(self._allowance(effect)):
                return await self._perform(effect)
        except PyMongoError as error:
            return faults.answer(effect, error)

    async def _perform(self, effect: PassEffect) -> object:  # noqa: C901, PLR0911, PLR0912 - it is one table
        match effect:
            case pass_effects.FindPasses(migration, undo):
                kept = self._kept.find(progress.of_migration(migration, undo), progress.KEYS)
                return progress.finished([document async for document in kept])
            case pass_effects.ClaimCheckpoint():
                claimed = await self._kept.find_one_and_update(**progress.claim(effect))
                return None if claimed is None else progress.checkpoint(claimed)
            case pass_effects.SaveCheckpoint(key, checkpoint, token):
                return bool((await self._kept.update_one(**progress.saving(key, checkpoint, token))).matched_count)
            case pass_effects.FindCheckpoint(key, token):
                found = await self._kept.find_one(progress.owned(key, token))
                return None if found is None else progress.checkpoint(found)
            case pass_effects.IdentifyCollection(source):
                if databases.is_mock(self._db):
                    return None
                database, name = source.collection.database, source.collection.name
                return progress.collection_id(await database.command("listCollections", filter={"name": name}))
            case pass_effects.FindHighest(source, others):
                highest = source.collection.find(progress.of_other_types(others), {"_id": 1}).sort("_id", -1).limit(1)
                return tuple([document["_id"] async for document in highest])
            case pass_effects.CountAll(source):
                return await source.collection.estimated_document_count()
            case pass_effects.CountMatching(source):
                return await source.collection.count_documents(source.filter)
            case pass_effects.CountSampled(source, size):
                sampled = await awaited(source.collection.aggregate(progress.sampled(source.filter, size)))
                return next(iter([document["matching"] async for document in sampled]), 0)
            case pass_effects.ReadBatch(source, checkpoint, limit):
                rest = source.collection.find(progress.from_here(source.filter, checkpoint), source.projection)
                return await rest.sort("_id", 1).limit(limit).batch_size(limit).to_list(None)
            case pass_effects.ReadBeside(read, save):
                return await interrupts.beside(self.perform(read), self.perform(save))
            case pass_effects.HandOver(batch, body, where):
                with within(where):
                    await bodies.hand_over_async(self._name, body, batch)
                return None
            case effects.AskForTransactions():
                return databases.has_transactions(self._db)
            case pass_effects.TakeSession():
                if not self._takes_session():
                    self._add(await transactions.open_session_async(self._db))
                return tuple(session.id for session in self._sessions)
            case pass_effects.TransactBatch(key, token, source, checkpoint, size, body):
                session = self._own[0]
                work = partial(passes.batch, key, source, checkpoint, size, body)

                async def record(after: Checkpoint) -> bool:
                    saving = progress.saving(key, after, token)
                    return bool((await self._kept.update_one(**saving, session=session.driver)).matched_count)

                return await transactions.attempt_async(session, lambda: drive_async(work(), self._perform), record)
            case pass_effects.CommitBatchAgain():
                return await transactions.commit_again_async(self._own[0])
            case pass_effects.ReadLag():
                if databases.is_mock(self._db):
                    return 0.0
                reply = await self._db.client.admin.command("replSetGetStatus")
                return progress.lag(reply, self._known_members())
            case effects.CheckLease():
                return bool((await self._lock.update_one(**self._setup.check(self._terms, effect))).matched_count)
            case effects.Now():
                return now()
            case effects.Sleep(shortest, longest):
                await asyncio.sleep(random.uniform(shortest, longest))  # noqa: S311 - to spread, not to hide
                return None
            case effects.Emit(event):
                return self._setup.tell(event)
            case _:
                assert_never(effect)
