"""A stand-in for Amazon DocumentDB 5.0: a proxy before a real MongoDB that refuses what DocumentDB refuses.

`python -m tools.documentdb_proxy` starts both and says where. Sources of what is refused:

- "Supported MongoDB APIs, operations, and data types in Amazon DocumentDB", "Functional differences: Amazon DocumentDB
  and MongoDB" and "Transactions in Amazon DocumentDB" (docs.aws.amazon.com/documentdb/latest/devguide): commands,
  operators, retryable writes, collections in transactions, cursors in transactions.
- The table of AWS's own compatibility checker (github.com/awslabs/amazon-documentdb-tools, compat-tool): operators.
- Notes of others who tested a cluster with engine 5.0.0: no `$clusterTime`, no UUIDs in listCollections, no causal
  consistency, no array in `$type`, and error codes 301, 303 and 304.

What AWS doesn't document, this doesn't imitate: it says nothing about performance, and a command that works here may
still fail there. Error 263 (a collection created in a transaction) is MongoDB 4.2's; AWS gives no code. The update that
is a pipeline isn't in AWS's tables, so it gets the code of other missing features.
"""

import asyncio
import contextlib
import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import bson
from anyio.from_thread import start_blocking_portal
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient
from pymongo.uri_parser import parse_uri

from tools.mongod import server

NO_RETRYABLE_WRITES = 301
NOT_SUPPORTED = 303
NO_SUCH_STAGE = 304
NOT_IN_TRANSACTION = 263
NO_SUCH_COMMAND = 59

WIRE_VERSION = 13  # MongoDB 5.0's


def _split(words: str) -> frozenset[str]:
    return frozenset(words.split())


COMMANDS = _split(
    "appendOplogNote bulkWrite cloneCollectionAsCapped convertToCapped endSessions getParameter "
    "killAllSessionsByPattern mapReduce refreshSessions replSetStepDown setParameter"
)
STAGES = _split(
    "$bucket $bucketAuto $densify $documents $facet $fill $graphLookup $listLocalSessions $listSessions $merge "
    "$planCacheStats $replaceWith $set $setWindowFields $sortByCount $unionWith $unset"
)
OPERATORS = _split(
    "$accumulator $bottom $bottomN $dateTrunc $firstN $function $getField $isNumber $lastN $linearFill $locf $ltrim "
    "$maxN $median $minN $near $percentile $pow $rand $regexFindAll $replaceAll $replaceOne $round $rtrim $sampleRate "
    "$setField $sortArray $stdDevPop $stdDevSamp $top $topN $trim $trunc $where"
)
VARIABLES = _split("$$CLUSTER_TIME $$CURRENT $$NOW $$REMOVE")
CATALOG = _split("create createIndexes drop dropDatabase dropIndexes renameCollection")
READS_AND_WRITES = _split("aggregate count delete distinct find findAndModify insert update")

_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_MORE_TO_COME = 1 << 1
_CHECKSUM = 1 << 0
_HEADER = struct.Struct("<iiii")  # length, request id, response to, opcode
_INSPECT: CodecOptions[Mapping[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)


@contextlib.contextmanager
def documentdb(uri: str, missing: Collection[str] = ()) -> Iterator[str]:
    """The URI of a proxy before the server of this URI; it has no password, and no retryable writes.

    Args:
        uri: Of a replica set of one member.
        missing: Further commands and operators to refuse: other look-alikes lack `killSessions`, say, or `$not`.
    """
    with start_blocking_portal() as portal:
        proxy = Proxy(uri, missing)
        port = portal.call(proxy.start)
        try:
            yield f"mongodb://127.0.0.1:{port}/?replicaSet={proxy.name}&retryWrites=false"
        finally:
            portal.call(proxy.stop)


class RefusedError(Exception):
    """The command is refused; the message is the server's.

    Attributes:
        code: The server's error code.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Proxy:
    """Passes messages on, and answers the refused ones itself. It has one connection to the server for each client's.

    Attributes:
        name: The replica set's.
    """

    def __init__(self, uri: str, missing: Collection[str] = ()) -> None:
        parsed = parse_uri(uri)
        (self._upstream,) = parsed["nodelist"]
        self.name = parsed["options"]["replicaSet"]
        self._uri = uri
        self._missing = frozenset(missing)
        self._connections: set[asyncio.Task[None]] = set()
        self._address = ""

    async def start(self) -> int:
        """Listen. Returns the port."""
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(self._uri)
        await self._client.admin.command("ping")
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        self._address = f"127.0.0.1:{port}"
        return port

    async def stop(self) -> None:
        """End all connections."""
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        await self._client.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            from_server, to_server = await asyncio.open_connection(*self._upstream)
            writers.append(to_server)
            while True:
                request = await _read(reader)
                try:
                    await self._check(request)
                except RefusedError as refused:
                    reply = {"ok": 0.0, "errmsg": str(refused), "code": refused.code}
                    if not request.flags & _MORE_TO_COME:
                        writer.write(request.answer(reply))
                    continue
                to_server.write(request.data)
                expects_more = not request.flags & _MORE_TO_COME
                while expects_more:
                    answer = await _read(from_server)
                    writer.write(answer.replace(self._rewrite(request, answer.body)))
                    expects_more = bool(answer.flags & _MORE_TO_COME)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # one of the two has gone
        finally:
            for one in writers:
                one.close()
            for one in writers:
                with contextlib.suppress(ConnectionError):
                    await one.wait_closed()

    async def _check(self, request: "Message") -> None:
        """Raise RefusedError if DocumentDB would refuse this command."""
        command = request.body
        name = request.name
        if name in self._missing:
            raise RefusedError(NO_SUCH_COMMAND, f"no such command: '{name}'")
        if name in COMMANDS:
            raise RefusedError(NOT_SUPPORTED, f"Feature not supported: {name}")
        if "txnNumber" in command and "autocommit" not in command:
            raise RefusedError(NO_RETRYABLE_WRITES, "Retryable writes are not supported")
        if "afterClusterTime" in command.get("readConcern", {}):
            raise RefusedError(NOT_SUPPORTED, "Feature not supported: 'causal consistency'")
        if name == "create" and (option := {"capped", "timeseries", "viewOn"} & set(command)):
            raise RefusedError(NOT_SUPPORTED, f"Feature not supported: {min(option)}")
        for statement in (command, *request.statements()):
            self._check_statement(statement)
        if command.get("autocommit") is False:
            await self._check_in_transaction(name, command)

    def _check_statement(self, statement: Mapping[str, Any]) -> None:
        if "collation" in statement:
            raise RefusedError(NOT_SUPPORTED, "option collation is currently not supported.")
        for field in ("filter", "query", "q"):
            self._check_operators(statement.get(field))
        for stage in statement.get("pipeline", []):
            if refused := (STAGES | self._missing) & set(stage):
                raise RefusedError(NO_SUCH_STAGE, f"Aggregation stage not supported: '{min(refused)}'")
            self._check_operators(stage)
        for field in ("update", "u"):  # in an `update` command, "update" is the collection
            if isinstance(statement.get(field), list):
                raise RefusedError(NOT_SUPPORTED, "Feature not supported: aggregation pipeline in an update")
            if isinstance(statement.get(field), dict) and (refused := self._missing & set(statement[field])):
                raise RefusedError(NOT_SUPPORTED, f"Feature not supported: {min(refused)}")

    def _check_operators(self, value: object) -> None:
        """Check a filter, or a stage of a pipeline: all of its keys, and the variables that it names."""
        match value:
            case str() if value.split(".")[0] in VARIABLES:
                raise RefusedError(NOT_SUPPORTED, f"Feature not supported: {value}")
            case list():
                for item in value:
                    self._check_operators(item)
            case dict():
                for key, item in value.items():
                    if key in OPERATORS or key in self._missing:
                        raise RefusedError(NOT_SUPPORTED, f"Feature not supported: {key}")
                    if key == "$type" and isinstance(item, list):
                        raise RefusedError(NOT_SUPPORTED, "Feature not supported: array for $type filter")
                    if key != "$literal":
                        self._check_operators(item)

    async def _check_in_transaction(self, name: str, command: Mapping[str, Any]) -> None:
        if name in CATALOG:
            raise RefusedError(NOT_IN_TRANSACTION, f"Cannot run '{name}' in a multi-document transaction.")
        if name == "getMore":
            raise RefusedError(NOT_SUPPORTED, "Feature not supported: cursors in a transaction")
        if name in READS_AND_WRITES:
            collection = command[name]
            names = await self._client[command["$db"]].list_collection_names(filter={"name": collection})
            if not names:
                namespace = f"{command['$db']}.{collection}"
                raise RefusedError(
                    NOT_IN_TRANSACTION, f"Cannot create namespace {namespace} in multi-document transaction."
                )

    def _rewrite(self, request: "Message", reply: Mapping[str, Any]) -> dict[str, Any]:
        """Remove what DocumentDB's replies don't have, and make the proxy the only member of the replica set."""
        rewritten = {field: value for field, value in reply.items() if field not in {"$clusterTime", "topologyVersion"}}
        if request.name.lower() in {"hello", "ismaster"}:
            rewritten |= {"hosts": [self._address], "primary": self._address, "me": self._address}
            rewritten["maxWireVersion"] = WIRE_VERSION
        if request.name == "listCollections" and "cursor" in rewritten:
            cursor = bson.decode(rewritten["cursor"].raw)
            for found in cursor["firstBatch"]:
                found.get("info", {}).pop("uuid", None)
            rewritten["cursor"] = cursor
        return rewritten


class Message:
    """A message of the wire protocol: an OP_MSG, or the OP_QUERY and OP_REPLY of a driver's first command.

    Attributes:
        data: All of its bytes.
        flags: Its flags.
        body: The command, or the reply.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        _, self._id, self._answered, self._opcode = _HEADER.unpack_from(data)
        self.flags = 0
        self._sequences: dict[str, list[Mapping[str, Any]]] = {}
        self.body: Mapping[str, Any] = {}
        if self._opcode == _OP_MSG:
            self._decode()
        elif self._opcode == _OP_QUERY:
            self.body = bson.decode(data[data.index(b"\0", 20) + 9 :], _INSPECT)
        elif self._opcode == _OP_REPLY:
            self.body = RawBSONDocument(data[36:])
        else:
            raise ConnectionError(f"opcode {self._opcode}")

    def _decode(self) -> None:
        (self.flags,) = struct.unpack_from("<I", self.data, 16)
        position, end = 20, len(self.data) - (4 if self.flags & _CHECKSUM else 0)
        while position < end:
            kind = self.data[position]
            (size,) = struct.unpack_from("<i", self.data, position + 1)
            section = self.data[position + 1 : position + 1 + size]
            position += 1 + size
            if kind == 0:
                self.body = RawBSONDocument(section) if self._answered else bson.decode(section, _INSPECT)
            else:
                name, _, documents = section[4:].partition(b"\0")
                self._sequences[name.decode()] = bson.decode_all(documents, _INSPECT)

    @property
    def name(self) -> str:
        """The name of the command."""
        return next(iter(self.body))

    def statements(self) -> Iterator[Mapping[str, Any]]:
        """Yield the parts of a command that have filters, updates or options of their own."""
        for field in ("updates", "deletes", "indexes"):
            yield from self._sequences.get(field, self.body.get(field, []))

    def answer(self, body: Mapping[str, Any]) -> bytes:
        """Make a reply to this message."""
        return _encode(_OP_MSG, 1, self._id, b"\0\0\0\0\0" + bson.encode(body))

    def replace(self, body: Mapping[str, Any]) -> bytes:
        """Make the same reply with another body."""
        start = self.data[16:36] if self._opcode == _OP_REPLY else struct.pack("<IB", self.flags & ~_CHECKSUM, 0)
        return _encode(self._opcode, self._id, self._answered, start + bson.encode(body))


def _encode(opcode: int, identity: int, answered: int, rest: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(rest), identity, answered, opcode) + rest


async def _read(reader: asyncio.StreamReader) -> Message:
    start = await reader.readexactly(4)
    (length,) = struct.unpack("<i", start)
    return Message(start + await reader.readexactly(length - 4))


def main() -> None:
    """Start a server and the proxy, and wait for the end of the input."""
    with server() as uri, documentdb(uri, sys.argv[1:]) as address:
        sys.stdout.write(f"{address}\nEnter ends it.\n")
        sys.stdout.flush()
        sys.stdin.readline()


if __name__ == "__main__":
    main()
