"""A process that applies or undoes migrations and is killed at a place of the test's choice."""

from dataclasses import replace

from pymongo import MongoClient

from tests.faults.instance import Instance, Orders, migrated
from tests.faults.works import Work
from tests.leases import DEAD

DEATHS = [
    ("run", "a", "in the function"),
    ("run", "b", "in the function"),
    ("run", "b", "before the record"),
    ("rollback", "c", "in the function"),
    ("rollback", "b", "in the function"),
    ("rollback", "b", "before the record"),
]
"""The work, the migration that it is left in, and the place there; of three, each of which needs the one before."""

NEEDS = {"a": [], "b": ["a"], "c": ["b"]}


def killed(driver: str, death: tuple[str, str, str], uri: str, name: str) -> None:
    """Let a process stop there, kill it, and let its lease expire."""
    work, migration, place = death
    works = [Work(one, depends_on=needed) for one, needed in NEEDS.items()]
    orders = Orders(driver=driver, uri=uri, database=name, works=works)
    if work == "rollback":
        migrated(replace(orders, driver="pymongo"))
        orders = replace(orders, calls=[("rollback", ["a"])])
    if place == "in the function":
        orders = replace(orders, works=[replace(one, held=one.name == migration) for one in works])
    else:
        command, order = ("insert", "abc") if work == "run" else ("delete", "cba")
        orders = replace(orders, stopped_at=f"before {command} records", passed=order.index(migration))
    with Instance(orders) as process:
        process.go()
        process.until("stopped")
        process.kill()
    with MongoClient(uri) as client:
        held = {"_id": "lease", "owner": {"$exists": True}}
        long_dead = {"ttl": DEAD["ttl"], "renewedAt": DEAD["renewedAt"]}
        assert client[name].app_migrations_lock.update_one(held, {"$set": long_dead}).matched_count
