"""One backfill on MongoDB: the collection that it goes over, and its checkpoint."""

from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

from bson.codec_options import DatetimeConversion
from pymongo.errors import DuplicateKeyError, EncryptionError, OperationFailure

from quaestor._core.checkpoint import Checkpoint, Document, check_projection
from quaestor._core.definition import check_text
from quaestor._core.store import Attempt
from quaestor._mongo import backfill_documents as documents
from quaestor._mongo import drivers, transactions
from quaestor._mongo.mongo_store import MongoStore, get_checkpoint_collection
from quaestor._mongo.outcomes import check_id_is_taken, find_unknown_outcome
from quaestor._mongo.transactions import Session
from quaestor.errors import BatchesInTransactionError, InvalidOptionError

T = TypeVar("T")

COUNTED = 100_000
"""The largest collection that is counted, in documents. A larger one is sampled, because counting takes long."""

SAMPLE = 1_000
"""The size of the sample, in documents."""

_NO_REPLICATION = 76  # NoReplicationEnabled


class MongoBackfillStore:
    """`quaestor._core.store.BackfillStore`: the protocol says what each method does. Making one checks its arguments.

    Args:
        store: The store where the function runs, with the function's driver.
        sessions: All sessions of the run; this may add one.
        migration: The migration.
        undo: Whether its rollback is running.
        is_async: Whether the function is `async def`.
        collection: The collection to go over.
        filter: Matches the documents; None: all.
        projection: The fields to read; None: all.
        name: The backfill's name; None: the collection's.

    Raises:
        InvalidOptionError: An argument can't be used.
        BatchesInTransactionError: It is called from a function that runs in a transaction.
    """

    def __init__(
        self,
        store: MongoStore,
        sessions: list[Session],
        migration: str,
        *,
        undo: bool,
        is_async: bool,
        collection: Any,
        filter: Any,  # noqa: A002 - PyMongo's word
        projection: Any,
        name: str | None,
    ) -> None:
        self._migration = migration
        self.check_not_in_transaction()
        drivers.check_collection(collection, is_async=is_async)
        if filter is not None and not isinstance(filter, Mapping):
            raise InvalidOptionError(f"filter must be a dict, not {filter!r:.80}.")
        check_projection(projection)
        options = drivers.get_codec_options(collection)
        if options.datetime_conversion is DatetimeConversion.DATETIME_CLAMP or options.unicode_decode_error_handler in {
            "ignore",
            "replace",
        }:
            raise InvalidOptionError(
                f"The `_id`s of {collection.name!r} don't survive the codec options of this collection, which change "
                "what they can't decode. Checkpoints are `_id`s: pass other options with "
                "`with_options(codec_options=...)`."
            )
        database = collection.database.name
        self._store = store
        self._sessions = sessions
        self._is_async = is_async
        self._source = drivers.read_from_primary(collection)
        self._filter = deepcopy(filter or {})  # a caller may change it later
        self._projection = deepcopy(projection)
        self._checkpoints = get_checkpoint_collection(store.db, store.prefix, options)
        self._session: Session | None = None
        self.collection = collection.name if database == store.db.name else f"{database}.{collection.name}"
        self.name = self.collection if name is None else check_text("The name of a backfill", name, InvalidOptionError)
        self.fingerprint = documents.make_fingerprint(f"{database}.{collection.name}", self._filter, options)
        self._id = {"migration": migration, "undo": undo, "backfill": self.name}  # of the checkpoint's document

    def check_not_in_transaction(self) -> None:
        if drivers.is_in_transaction.get():
            raise BatchesInTransactionError(self._migration)

    async def identify_collection(self) -> bytes | None:
        if drivers.is_mock(self._store.db):
            return None
        database, name = self._source.database, self._source.name
        reply = await _allow_refusal(
            self._store.driver.call(database.command, "listCollections", filter={"name": name})
        )
        return None if reply is None else documents.read_collection_id(reply)

    async def read_fingerprint(self) -> str | None:
        # Without `_id`s: this run may not be able to decode them.
        found = await self._store.driver.call(self._checkpoints.find_one, {"_id": self._id}, {"fingerprint": 1})
        return None if found is None else str(found["fingerprint"])

    async def read_checkpoint(self, token: int) -> Checkpoint | None:
        found = await self._store.driver.call(self._checkpoints.find_one, {"_id": self._id, "token": token})
        return None if found is None else documents.read_checkpoint(found)

    async def claim_checkpoint(self, checkpoint: Checkpoint | None, token: int, *, force: bool) -> Checkpoint | None:
        matching = {"_id": self._id} | ({} if force else {"token": {"$lte": token}})
        update: dict[str, Any] = {"$set": {"token": token}}
        if checkpoint is not None:
            update["$set"] |= {"collection": self.collection, "fingerprint": self.fingerprint}
            update["$set"] |= documents.make_fields(checkpoint)
            update["$currentDate"] = {"updatedAt": True}
        try:
            claimed = await self._store.driver.write(
                self._checkpoints.find_one_and_update,
                matching,
                update,
                upsert=checkpoint is not None,
                return_document=True,
            )
        except DuplicateKeyError as error:  # there is one, with a higher token
            check_id_is_taken(error, self._checkpoints)
            return None
        return None if claimed is None else documents.read_checkpoint(claimed)

    async def save_checkpoint(self, checkpoint: Checkpoint, token: int) -> bool:
        return await self._save(checkpoint, token)

    async def find_highest(self, others: tuple[object, ...]) -> tuple[object, ...]:
        found = await self._find(documents.match_other_types(others), {"_id": 1}, -1, 1)
        return tuple(document["_id"] for document in found)

    async def estimate_count(self) -> int | None:
        return await _allow_refusal(self._estimate())

    async def read_batch(self, checkpoint: Checkpoint, limit: int) -> list[Document]:
        return await self._find(documents.match_rest(self._filter, checkpoint), self._projection, 1, limit)

    async def read_lag(self) -> float:
        if drivers.is_mock(self._store.db):
            return 0.0
        client = self._store.db.client
        try:
            reply = await self._store.driver.call(client.admin.command, "replSetGetStatus")
        except OperationFailure as error:
            if error.code == _NO_REPLICATION:
                return 0.0
            error.add_note(
                "quaestor: max_lag needs the command `replSetGetStatus`, which the role clusterMonitor allows, and "
                "which neither a mongos nor the Stable API in strict mode has."
            )
            raise
        servers = client.topology_description.server_descriptions()
        return documents.read_lag(reply, [f"{host}:{port}" for host, port in servers])

    async def open_session(self) -> tuple[bytes, ...]:
        """Use a free session of the function's kind, or open one."""
        ours = (session for session in self._sessions if session.is_async == self._is_async)
        self._session = next((session for session in ours if session.in_use.acquire(blocking=False)), None)
        if self._session is None:
            self._session = await transactions.open_session(
                self._store.driver, self._store.db.client, is_async=self._is_async
            )
            self._sessions.append(self._session)
        return tuple(session.id for session in self._sessions)

    async def transact(self, work: Callable[[], Awaitable[Checkpoint]], token: int) -> Attempt[Checkpoint]:
        session = self._get_session()
        save = partial(self._save, token=token, session=session.driver_session)
        return await transactions.attempt(self._store.host, session, work, save)

    async def commit_again(self, seconds: float) -> Attempt[Checkpoint]:
        return await transactions.commit(self._get_session(), seconds)

    def close(self) -> None:
        """Free the session for other backfills."""
        if self._session is not None:
            self._session.in_use.release()
            self._session = None

    def _get_session(self) -> Session:
        if self._session is None:
            raise RuntimeError("A transaction needs a session: open_session comes first.")
        return self._session

    async def _save(self, checkpoint: Checkpoint, token: int, session: Any = None) -> bool:
        update = {"$set": documents.make_fields(checkpoint), "$currentDate": {"updatedAt": True}}
        matching = {"_id": self._id, "token": token}
        saved = await self._store.driver.write(self._checkpoints.update_one, matching, update, session=session)
        return bool(saved.matched_count)

    async def _find(self, matching: dict[str, Any], projection: Any, direction: int, limit: int) -> list[Document]:
        """Find documents, in the order of `_id`."""
        order = [("_id", direction)]
        found = self._source.find(matching, projection, sort=order, limit=limit, batch_size=limit)
        return await self._store.driver.read_all(found)

    async def _estimate(self) -> int:
        size = int(await self._store.driver.call(self._source.estimated_document_count))
        if not self._filter:
            return size
        if size <= COUNTED:
            return int(await self._store.driver.call(self._source.count_documents, self._filter))
        sample: list[Document] = [{"$sample": {"size": SAMPLE}}, {"$match": self._filter}, {"$count": "matching"}]
        counted = await self._store.driver.aggregate(self._source, sample)
        return size * int(counted[0]["matching"]) // SAMPLE if counted else 0


async def _allow_refusal(command: Awaitable[T]) -> T | None:
    """Await a command for something that isn't indispensable. None: the server, or automatic encryption, refuses it."""
    try:
        return await command
    except (OperationFailure, EncryptionError) as error:
        if find_unknown_outcome(error) is not None:
            raise
        return None
