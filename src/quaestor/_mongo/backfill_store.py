"""One backfill on MongoDB: its collection and its checkpoint."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo.errors import DuplicateKeyError, InvalidOperation, OperationFailure

from quaestor._core.checkpoint import Batch, Checkpoint, Document, Origin, Throttle, check_projection
from quaestor._core.definition import check_text
from quaestor._core.store import Attempt
from quaestor._mongo import backfill_documents as documents
from quaestor._mongo import drivers, transactions
from quaestor._mongo.mongo_store import MongoStore, allow_refusal, get_checkpoint_collection
from quaestor._mongo.outcomes import check_id_is_taken, find_id
from quaestor._mongo.transactions import Session
from quaestor._text import add_note
from quaestor.errors import BatchesInTransactionError, InvalidOptionError

COUNTED = 100_000
"""The largest collection that is counted, in documents. A larger one is sampled, because counting takes too long."""

SAMPLE = 1_000
"""The size of the sample, in documents."""

_MOST_IDS = 8_000_000  # bytes of the `_id`s of a batch: they are sent back to the server
_NO_REPLICATION = 76  # NoReplicationEnabled


class MongoBackfillStore:
    """`quaestor._core.store.BackfillStore`: the protocol says what each method does. Making one checks its arguments.

    The store has the function's driver. The sessions are those of the run, to which this may add one.
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
        options = self._options = drivers.get_codec_options(collection)
        self._is_mock = drivers.is_mock(store.db)
        self._is_lossy = (
            options.datetime_conversion is DatetimeConversion.DATETIME_CLAMP
            or options.unicode_decode_error_handler not in {None, "strict"}
        )
        database = collection.database.name
        self._store = store
        self._sessions = sessions
        self._is_async = is_async
        self._source = drivers.read_from_primary(collection)
        self._filter = deepcopy(filter or {})  # a caller may change it later
        self._projection = deepcopy(projection)
        self._checkpoints = get_checkpoint_collection(
            store.db, store.prefix, CodecOptions() if self._is_mock else documents.IDS
        )
        self._session: Session | None = None
        self.collection = collection.name if database == store.db.name else f"{database}.{collection.name}"
        self.name = self.collection if name is None else check_text("The name of a backfill", name, InvalidOptionError)
        digest = partial(documents.make_fingerprint, f"{database}.{collection.name}", options=options)
        # Of the filter as it is, because a checkpoint of an earlier release may have that.
        plain = digest(self._filter)
        self.fingerprints: tuple[str, ...] = (digest(documents.sort_filter(self._filter, options)), plain)
        self._id = {"migration": migration, "undo": undo, "backfill": self.name}  # of the checkpoint's document

    def check_not_in_transaction(self) -> None:
        if drivers.is_in_transaction.get():
            raise BatchesInTransactionError(self._migration)

    async def identify_collection(self) -> bytes | None:
        if self._is_mock:
            return None
        database, name = self._source.database, self._source.name
        reply = await allow_refusal(self._store.driver.call(database.command, "listCollections", filter={"name": name}))
        return None if reply is None else documents.read_collection_id(reply)

    async def read_origin(self) -> Origin | None:
        found = await self._store.driver.call(self._checkpoints.find_one, {"_id": self._id}, documents.ORIGIN)
        return None if found is None else documents.read_origin(found)

    async def read_checkpoint(self, token: int) -> Checkpoint | None:
        found = await self._store.driver.call(self._checkpoints.find_one, {"_id": self._id, "token": token})
        return None if found is None else documents.read_checkpoint(found)

    async def claim_checkpoint(self, checkpoint: Checkpoint | None, token: int, *, force: bool) -> Checkpoint | None:
        matching = {"_id": self._id} | ({} if force else {"token": {"$lte": token}})
        known = {"collection": self.collection, "fingerprint": self.fingerprints[0]}
        update: dict[str, Any] = {"$set": {"token": token} | known}
        if checkpoint is not None:
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

    async def save_checkpoint(self, checkpoint: Checkpoint, token: int, session: Any = None) -> bool:
        update = {"$set": documents.make_fields(checkpoint), "$currentDate": {"updatedAt": True}}
        matching = {"_id": self._id, "token": token}
        saved = await self._store.driver.write(self._checkpoints.update_one, matching, update, session=session)
        return bool(saved.matched_count)

    async def find_highest(self, others: tuple[object, ...]) -> tuple[object, ...]:
        return (await self._read(documents.match_other_types(others), {"_id": 1}, 1, order=-1)).ends[:1]

    async def estimate_count(self) -> int | None:
        return await allow_refusal(self._estimate())

    async def read_batch(self, front: Checkpoint, throttle: Throttle) -> Batch:
        matching = documents.match_rest(self._filter, front)
        return await self._read(matching, self._projection, throttle.size, throttle.max_bytes, self._options)

    async def find_ids(self, front: Checkpoint, throttle: Throttle) -> Batch:
        return await self._read(documents.match_rest(self._filter, front), {"_id": 1}, throttle.size, _MOST_IDS)

    async def read_found(self, found: Batch, throttle: Throttle) -> Batch:
        ids = {"_id": {"$in": [document["_id"] for document in found.documents]}}
        matching = {"$and": [self._filter, ids]} if self._filter else ids
        size = len(found.documents)
        batch = await self._read(matching, self._projection, size, throttle.max_bytes, self._options)
        return batch if batch.following else replace(batch, following=found.following)

    def describe(self, batch: Batch, error: BaseException) -> str:
        shown = [documents.show_id(one) for one in (find_id(error) or batch.ends)]
        return f"`_id` {shown[0]}" if len(set(shown)) == 1 else f"`_id`s from {shown[0]} to {shown[1]}"

    async def read_lag(self) -> float:
        if self._is_mock:
            return 0.0
        client = self._store.db.client
        try:
            reply = await self._store.driver.call(client.admin.command, "replSetGetStatus")
        except OperationFailure as error:
            if error.code == _NO_REPLICATION:
                return 0.0
            add_note(
                error,
                "max_lag needs the command `replSetGetStatus`, which the role clusterMonitor allows, and which neither "
                "a mongos nor the Stable API in strict mode has.",
            )
            raise
        servers = client.topology_description.server_descriptions()
        return documents.read_lag(reply, [f"{host}:{port}" for host, port in servers])

    async def open_session(self) -> tuple[bytes, ...]:
        """Take an unused session of the function's kind, or open one."""
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
        save = partial(self.save_checkpoint, token=token, session=session.driver_session)
        return await transactions.attempt(self._store.host, session, work, save)

    async def commit_again(self, seconds: float) -> Attempt[Checkpoint]:
        return await transactions.commit(self._get_session(), seconds)

    def close(self) -> None:
        """Release the session for other backfills."""
        if self._session is not None:
            self._session.in_use.release()
            self._session = None

    def _get_session(self) -> Session:
        if self._session is None:
            raise RuntimeError("A transaction needs a session: open_session comes first.")
        return self._session

    async def _read(
        self,
        matching: dict[str, Any],
        projection: Any,
        size: int,
        most: int = _MOST_IDS,
        options: CodecOptions[Any] = documents.IDS,
        *,
        order: int = 1,
    ) -> Batch:
        """Read documents in the order of `_id`, as many as a number and their bytes allow, but one at least."""
        query = {"filter": matching, "projection": projection, "sort": [("_id", order)]}
        query |= {"limit": size + 1, "batch_size": size + 1}
        if self._is_mock:
            found = await self._store.driver.read_all(self._source.find(**query))
            ids = [document["_id"] for document in found]
            return Batch(found[:size], (ids[0], ids[:size][-1]) if ids else (), tuple(ids[size:]))
        data = b"".join(await self._read_raw(query, most))
        places = documents.find_documents(data)
        if not (count := documents.count_fitting(places, size, most)):
            return Batch([])

        def cut(numbers: Iterable[int]) -> Iterator[bytes]:
            return (data[places[number] : places[number + 1]] for number in numbers)

        is_lossy = self._is_lossy and options is self._options
        checked = range(count) if is_lossy else (0, count - 1)
        ids = [documents.read_id(one, is_lossy=is_lossy) for one in cut(checked)]
        following = tuple(map(documents.read_id, cut(range(count, len(places) - 1)[:1])))
        if following and documents.is_same_id(ids[-1], following[0]):
            raise InvalidOptionError(
                f"Two documents have the `_id` {documents.show_id(ids[-1])}, which a backfill can't distinguish: the "
                "document is stored on two shards. Remove one of the two."
            )
        try:
            found = bson.decode_all(data[: places[count]], options)
        except Exception as error:
            if undecodable := documents.find_undecodable(cut(range(count)), options):
                shown = documents.show_id(documents.read_id(undecodable))
                add_note(error, f"this is the document of {self.collection!r} with the `_id` {shown}")
            raise
        return Batch(found, (ids[0], ids[-1]), following)

    async def _read_raw(self, query: dict[str, Any], most: int) -> list[bytes]:
        try:
            cursor = self._source.find_raw_batches(**query)
        except InvalidOperation:  # the client encrypts automatically, and decrypts no raw batches
            options = self._options.with_options(document_class=RawBSONDocument)
            cursor = self._source.with_options(codec_options=options).find(**query)
            found: list[Any] = await self._store.driver.read_all(cursor)
            return [document.raw for document in found]
        return await self._store.driver.read_raw(cursor, most)

    async def _estimate(self) -> int | None:
        size = int(await self._store.driver.call(self._source.estimated_document_count))
        if not self._filter:
            return size
        if size <= COUNTED:
            return int(await self._store.driver.call(self._source.count_documents, self._filter))
        sample: list[Document] = [{"$sample": {"size": SAMPLE}}, {"$match": self._filter}, {"$count": "matching"}]
        counted = await self._store.driver.aggregate(self._source, sample)
        return size * int(counted[0]["matching"]) // SAMPLE if counted else None  # there may be some all the same
