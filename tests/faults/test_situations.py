"""Situations of servers and workers, each really what it claims to be. (What quaestor does in them: elsewhere.)"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import WriteConcern
from pymongo.errors import WTimeoutError

from tools.cluster import SERVERS, Cluster, clock_ahead, cluster, fill, roll_back, small_disk, wait_until
from tools.mongod import client_to
from tools.network import can_switch, network

MINUTES = {"s0": 0, "s1": 10, "s2": -10}


@pytest.fixture(scope="module")
def members() -> Iterator[Cluster]:
    with network(SERVERS) as net, cluster(net) as group:
        yield group


@pytest.fixture
def group(members: Cluster) -> Cluster:
    """All three, whatever the last test did to them."""
    members.restart()
    return members


def test_clocks() -> None:
    """The members' clocks are ten minutes apart, and the time of the server jumps with each election."""
    prefixes = {node: clock_ahead(60 * minutes) for node, minutes in MINUTES.items() if minutes}
    with network(SERVERS) as net, cluster(net, prefixes=prefixes) as group, client_to(group.uri) as client:
        for _ in range(2):
            primary = group.primary()
            [told] = client.admin.aggregate([{"$documents": [{"now": "$$NOW"}]}])
            assert _minutes(told["now"]) == MINUTES[primary.node]
            assert {member.node: _minutes(group.state(member)["localTime"]) for member in group.members} == MINUTES
            before = primary
            while group.primary() is before:  # elected once more
                group.step_down()


def _minutes(time: datetime) -> int:
    """How far a clock is ahead, in minutes."""
    return round((time.replace(tzinfo=UTC) - datetime.now(UTC)) / timedelta(minutes=1))


def test_arbiter() -> None:
    """With an arbiter, writes are acknowledged by the primary alone, unless they ask for more. Without the secondary
    there is a primary, and no majority that confirms.
    """
    with network(SERVERS) as net, cluster(net, arbiter=True) as group, client_to(group.uri) as client:
        assert group.arbiter is not None
        assert group.state(group.arbiter)["arbiterOnly"]
        [secondary] = group.secondaries()
        secondary.kill()
        client.test.things.insert_one({})
        with pytest.raises(WTimeoutError):
            client.test.get_collection("things", write_concern=WriteConcern("majority", wtimeout=500)).insert_one({})
        secondary.launch()
        secondary.ready()
        group.wait()  # a majority confirms again
        roll_back(group, ("test", "things"), {"_id": "lost"})
        assert client.test.things.find_one({"_id": "lost"}) is None


def test_no_majority(group: Cluster) -> None:
    """Of three members two are gone, so the third is no primary any more."""
    primary = group.primary()
    for secondary in group.secondaries():
        secondary.kill()
    wait_until(lambda: group.state(primary)["secondary"])
    group.restart()
    group.primary()


def test_rolled_back(group: Cluster) -> None:
    """A write that the primary alone has acknowledged is gone on all members, after it has rejoined."""
    with client_to(group.uri) as client:
        client.test.things.insert_one({"_id": "kept"})
        roll_back(group, ("test", "things"), {"_id": "lost"})
        assert {thing["_id"] for thing in client.test.things.find()} >= {"kept"}
    for member in group.members:
        with client_to(group.uri, member.host, readPreference="secondaryPreferred") as client:
            assert client.test.things.find_one({"_id": "kept"}) is not None
            assert client.test.things.find_one({"_id": "lost"}) is None


@pytest.mark.skipif(not can_switch(), reason="this process may not mount a disk")
def test_full_disk(tmp_path: Path) -> None:
    """A mongod whose disk is full ends; the others go on; with room it is a member again."""
    with (
        small_disk(tmp_path, megabytes=300) as folder,
        network(SERVERS) as net,
        cluster(net, folders={"s0": folder}) as group,
    ):
        ballast = fill(folder)
        [full] = [member for member in group.members if member.node == "s0"]
        with client_to(group.uri) as client:
            wait_until(lambda: _write(client) and full.process.poll() is not None)
            assert full.process.wait() > 0
            wait_until(lambda: _write(client))
            ballast.unlink()
            group.restart()


def _write(client: Any) -> bool:
    client.test.things.insert_one({"room": "x" * 100_000})
    return True
