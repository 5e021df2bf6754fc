"""Every command that quaestor sends, and when: the table of docs/servers.md.

python -m tests.sent_commands          # print the table
python -m tests.sent_commands --write  # put it into the page
"""

import contextlib
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bson.binary import UUID_SUBTYPE, Binary
from pymongo import MongoClient
from pymongo.monitoring import CommandStartedEvent

from quaestor import MigrationContext, MigrationRegistry, SyncRunner
from quaestor.errors import LeaseTimeoutError
from tests.functions import Broken
from tests.killed import killed
from tests.leases import HELD
from tools import mongod
from tools.commands import Commands
from tools.faults import WTIMEOUT, fail_command

PAGE = Path(__file__).parents[1] / "docs" / "servers.md"
BEGIN, END = "<!-- commands: begin -->", "<!-- commands: end -->"

WITHOUT_RECORDS = "a run that finds no records"
MINE = "sent by a migration"
"""The `comment` of what a migration sends itself."""
NAME, SIMILAR = "quaestor_test_sent", "quaestor_test_sebt"
APP = "quaestor-sent"
COUNTED_BY_SAMPLE = 100_001
"""Documents, of which a backfill with a filter counts a sample."""

TARGETS = {
    "app_migrations": "`{prefix}_migrations`",
    "app_migrations_history": "`{prefix}_migrations_history`",
    "app_migrations_lock": "`{prefix}_migrations_lock`",
    "app_migrations_progress": "`{prefix}_migrations_progress`",
    "things": "the collection of the backfill",
}
PLUMBING = {"lsid", "txnNumber", "startTransaction", "autocommit", "ordered", "cursor", "batchSize", "singleBatch"}
"""Arguments of each command, or without meaning for a server's support; and those that the drivers add."""
SHOWN_WITH_VALUE = {"readConcern": "level", "writeConcern": "w"}

Signature = tuple[str, str, tuple[str, ...]]


class World:
    """A database, a client that is watched, and a registry."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.registry = MigrationRegistry()
        self.sent = Commands()
        self.client: MongoClient[dict[str, Any]] = MongoClient(
            uri, event_listeners=[_Seen(self.sent)], appname=APP, serverSelectionTimeoutMS=30_000
        )
        self.db = self.client[NAME]

    def runner(self, *, lease_ttl: float = 3_600, **options: Any) -> SyncRunner:
        """A runner whose lease needs no renewal: how long a scenario takes depends on the machine."""
        return SyncRunner(self.registry, self.db, "app", on_event=ignore, lease_ttl=lease_ttl, **options)

    def migrate(self, function: Callable[..., object] = lambda db: None, **options: Any) -> None:
        """Register `a` with this function."""
        self.registry.register("a", **options)(function)
        self.registry.register_rollback("a")(touch)

    def fill(self, count: int) -> None:
        """Insert documents, with `_id`s of two types."""
        things = self.db.things
        things.insert_many([{"_id": number, "kind": number % 2} for number in range(count)], comment=MINE)
        things.insert_one({"_id": "a", "kind": 0}, comment=MINE)


class _Seen(Commands):
    """Keeps all commands but those of migrations. (`Commands` itself leaves out `hello`.)"""

    def __init__(self, seen: Commands) -> None:
        super().__init__()
        self._seen = seen

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name not in {"ping", "endSessions"} and event.command.get("comment") != MINE:
            self._seen.sent.append(dict(event.command))


def ignore(event: object) -> None:
    """An event hook."""


def touch(db: Any) -> None:
    """Write something in a migration."""
    db.touched.insert_one({}, comment=MINE)


def run(world: World) -> None:
    world.migrate(touch)
    world.runner().run()


def run_again(world: World) -> None:
    run(world)
    world.sent.sent.clear()
    world.runner().run()


def run_long(world: World) -> None:
    world.migrate(lambda db: time.sleep(0.7))
    world.runner(lease_ttl=1).run()


def run_in_a_transaction(world: World) -> None:
    world.migrate(touch, transaction=True)
    world.runner().run()


def fail_in_a_transaction(world: World) -> None:
    def function(db: Any) -> None:
        touch(db)
        raise Broken

    world.migrate(function, transaction=True)
    with contextlib.suppress(Broken):
        world.runner().run()


def lose_the_answer_to_a_record(world: World) -> None:
    world.migrate(touch)
    with fail_command(world.uri, ["insert"], **WTIMEOUT, appName=APP, namespace=f"{NAME}.app_migrations"):
        world.runner().run()


def _backfill(world: World, documents: int, **options: Any) -> None:
    world.fill(documents)

    def function(db: Any, context: MigrationContext) -> None:
        for _ in context.batches(db.things, **options):
            pass

    world.migrate(function)
    world.runner().run()


def backfill(world: World) -> None:
    _backfill(world, 5, size=2)


def backfill_with_a_filter(world: World) -> None:
    _backfill(world, 5, size=2, filter={"kind": 0})


def backfill_a_large_collection(world: World) -> None:
    _backfill(world, COUNTED_BY_SAMPLE, size=100_000, filter={"kind": 0})


def backfill_with_max_lag(world: World) -> None:
    _backfill(world, 5, size=2, max_lag=10)


def backfill_in_transactions(world: World) -> None:
    world.fill(5)
    world.migrate(lambda db, context: context.for_each_batch(db.things, lambda batch: touch(db), size=2))
    world.runner().run()


def resume_a_backfill(world: World) -> None:
    world.fill(5)
    attempts: list[int] = []

    def function(db: Any, context: MigrationContext) -> None:
        attempts.append(1)
        for number, _ in enumerate(context.batches(db.things, size=2)):
            if number == 1 and len(attempts) == 1:
                raise Broken

    world.migrate(function)
    with contextlib.suppress(Broken):
        world.runner().run()
    world.runner().run()


def roll_back(world: World) -> None:
    run(world)
    world.sent.sent.clear()
    world.runner().rollback(["a"])


def roll_back_in_a_transaction(world: World) -> None:
    run_in_a_transaction(world)
    world.sent.sent.clear()
    world.runner().rollback(["a"])


def replace_others(world: World) -> None:
    world.migrate(replaces=["b", "c"])
    world.runner().run()


def roll_back_a_replacement(world: World) -> None:
    replace_others(world)
    world.sent.sent.clear()
    world.runner().rollback(["a"])


def run_after_a_crash(world: World) -> None:
    world.migrate(touch, after_crash="stop")
    world.runner().run()


def mark_applied(world: World) -> None:
    world.migrate()
    world.runner().mark_applied(["a"])


def mark_pending(world: World) -> None:
    mark_applied(world)
    world.sent.sent.clear()
    world.runner().mark_pending(["a"])


def mark_accepted(world: World) -> None:
    mark_applied(world)
    with MongoClient[dict[str, Any]](world.uri) as client:  # as an earlier release recorded it
        client[NAME].app_migrations.update_one({}, {"$unset": {"checksum": ""}})
    world.sent.sent.clear()
    world.runner().mark_accepted(["a"])


def look_elsewhere(world: World) -> None:
    """The first run of one database beside another with a similar name, and the first under another prefix."""
    world.migrate()
    similar, sent = world.client[SIMILAR], world.sent.sent
    SyncRunner(world.registry, similar, on_event=ignore).run()
    sent.clear()
    world.runner().run()
    before = sent[1:3]
    sent.clear()
    SyncRunner(world.registry, world.db, "other", on_event=ignore).run()
    sent[:] = before + sent[1:3]  # without what each run sends
    world.client.drop_database(similar, comment=MINE)


def plan(world: World) -> None:
    world.migrate()
    world.runner().plan()


def status(world: World) -> None:
    world.migrate()
    world.runner().status()


def read_history(world: World) -> None:
    world.migrate()
    world.runner().history(["a"])


def _hold(world: World) -> None:
    with MongoClient[dict[str, Any]](world.uri) as client:
        client[NAME].app_migrations_lock.insert_one(dict(HELD))


def unlock(world: World) -> None:
    _hold(world)
    world.runner().unlock()


def protect(world: World) -> None:
    world.runner().protect("production")
    world.runner().protect(None)


def wait_for_the_lease(world: World) -> None:
    world.migrate()
    _hold(world)
    with contextlib.suppress(LeaseTimeoutError):
        world.runner(lease_timeout=0.5).run()


def take_over(world: World) -> None:
    killed("pymongo", ("run", "b", "in the function"), world.uri, NAME)
    with MongoClient[dict[str, Any]](world.uri) as client:  # as if one of its migrations was in a transaction
        session = {"id": Binary(uuid.uuid4().bytes, UUID_SUBTYPE), "uid": Binary(bytes(32))}
        client[NAME].app_migrations_lock.update_one({}, {"$set": {"sessions": [session]}})
    for name in ("a", "b", "c"):
        world.registry.register(name)(touch)
    world.runner().run()


CHANGES: dict[str, Callable[[World], None]] = {
    "run": run,
    "a migration that takes longer than a third of `lease_ttl`": run_long,
    "a migration in a transaction": run_in_a_transaction,
    "a failure in a transaction": fail_in_a_transaction,
    "a record whose answer is lost": lose_the_answer_to_a_record,
    "backfill": backfill,
    "backfill with a filter": backfill_with_a_filter,
    "backfill with a filter, more than 100,000 documents": backfill_a_large_collection,
    "backfill with `max_lag`": backfill_with_max_lag,
    "backfill in transactions": backfill_in_transactions,
    "backfill that resumes": resume_a_backfill,
    'a migration with `after_crash="stop"`': run_after_a_crash,
    "a migration with `replaces`": replace_others,
    "rollback": roll_back,
    "rollback of a migration with `replaces`": roll_back_a_replacement,
    "rollback in a transaction": roll_back_in_a_transaction,
    "mark applied": mark_applied,
    "mark pending": mark_pending,
    "mark accepted": mark_accepted,
    "take-over from a dead instance": take_over,
}
"""What acquires the lease."""

_IN_TRANSACTIONS = {"a migration in a transaction", "a failure in a transaction", "rollback in a transaction"}
TOGETHER = {
    "each run, rollback and mark": set(CHANGES),
    "each run, rollback and mark of migrations that aren't in a transaction": set(CHANGES) - _IN_TRANSACTIONS,
    "each backfill": {title for title in CHANGES if title.startswith("backfill")},
    "each migration and rollback in a transaction": _IN_TRANSACTIONS,
    WITHOUT_RECORDS: {
        "each backfill",
        "run",
        "a migration that takes longer than a third of `lease_ttl`",
        "a migration in a transaction",
        "a failure in a transaction",
        "a record whose answer is lost",
        'a migration with `after_crash="stop"`',
        "a migration with `replaces`",
        "waiting for another instance",
    },
}
"""What is said for all of these."""

OTHERS: dict[str, Callable[[World], None]] = {
    "run with nothing to do": run_again,
    "waiting for another instance": wait_for_the_lease,
    WITHOUT_RECORDS: look_elsewhere,
    "plan": plan,
    "status": status,
    "history": read_history,
    "unlock": unlock,
    "protect": protect,
}


@contextlib.contextmanager
def prepared(uri: str) -> Iterator[World]:
    """An empty database."""
    world = World(uri)
    try:
        world.client.drop_database(NAME)
        world.sent.sent.clear()
        yield world
        world.client.drop_database(NAME, comment=MINE)
    finally:
        world.client.close()


def sign(command: Mapping[str, Any]) -> Signature:
    """Reduce a command to its name, what it is about, and the operators and options that a server must know."""
    name, subject = next(iter(command.items()))
    target = TARGETS.get(subject, f"`{subject}`") if isinstance(subject, str) else f"the database `{command['$db']}`"
    if command["$db"] == NAME and not isinstance(subject, str):
        target = "the database"
    words = {word for key, value in command.items() if key != name for word in _find_words(key, value)}
    if command.get("autocommit") is False:
        words.add("in the transaction")
    return name, target, tuple(sorted(words - PLUMBING, key=lambda word: (not word.startswith("`$"), word)))


def _find_words(key: str, value: Any) -> Iterator[str]:
    if key in {"lsid", "documents"} or key.startswith("$"):
        return
    if key in SHOWN_WITH_VALUE:
        yield f"`{key}: {value.get(SHOWN_WITH_VALUE[key])}`" if value else f"`{key}: {{}}`"
    elif key in {"updates", "deletes"}:
        for statement in value:
            for inner, content in statement.items():
                yield from _find_words(inner, content)
    elif key in {"q", "u", "query", "update", "filter", "pipeline", "killSessions"}:
        if key in {"u", "update"} and isinstance(value, list):
            yield "a pipeline"
        yield from _find_operators(value)
    elif value and key not in PLUMBING:
        yield f"`{key}`"


def _find_operators(value: Any) -> Iterator[str]:
    match value:
        case str() if value.startswith("$$"):
            yield f"`{value}`"
        case list():
            for item in value:
                yield from _find_operators(item)
        case dict():
            for key, item in value.items():
                if key.startswith("$"):
                    yield f"`{key}`"
                yield from _find_operators(item)


def collect(uri: str) -> dict[Signature, list[str]]:
    """Do everything, and return when each command is sent."""
    when: dict[Signature, list[str]] = {}
    for title, scenario in {**CHANGES, **OTHERS}.items():
        with prepared(uri) as world:
            scenario(world)
            for signature in dict.fromkeys(sign(command) for command in world.sent.sent):
                when.setdefault(signature, []).append(title)
    return when


def table(when: Mapping[Signature, list[str]]) -> str:
    """The commands as Markdown."""
    lines = ["| command | on | operators and options | when |", "|---|---|---|---|"]
    for (name, target, words), titles in sorted(when.items()):
        lines.append(f"| `{name}` | {target} | {', '.join(words)} | {'; '.join(_summarize(titles))} |")
    return "\n".join(lines)


def _summarize(titles: list[str]) -> list[str]:
    said = list(titles)
    for together, parts in TOGETHER.items():
        if parts <= set(said) or together in said:
            said = [together, *(title for title in said if title not in {*parts, together})]
    return said


def make(uri: str) -> str:
    return table(collect(uri))


def read() -> str:
    """The table of the page."""
    page = PAGE.read_text(encoding="utf-8")
    return page[page.index(BEGIN) + len(BEGIN) : page.index(END)].strip()


def main() -> None:
    """The command line."""
    with mongod.started("--replSet", mongod.REPLICA_SET) as nodes:
        made = make(mongod.initiate(nodes))
    if "--write" in sys.argv:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page[: page.index(BEGIN)], page[page.index(END) :]
        PAGE.write_text(f"{before}{BEGIN}\n\n{made}\n\n{after}", encoding="utf-8")
    else:
        print(made)


if __name__ == "__main__":
    main()
