"""The network of the faults does what it says: on a Switch where this machine allows one, and on a Proxy."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tools.network import HERE, Link, Network, Proxy, Switch, can_switch

ECHO = """
import socket, sys, threading
def serve(connection):
    with connection:
        while data := connection.recv(100):
            connection.sendall(data)
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
"""
SILENCE = 1.0  # seconds without an answer, after which there is none
ANSWER = 30.0  # seconds within which there is one, on a loaded machine


class Client:
    """A connection from a node to the echo server in node "s"."""

    def __init__(self, network: Network, node: str, address: str, own_port: int = 0) -> None:
        host, port = address.split(":")
        with network.inside(node):
            self.socket = socket.socket()
            self.socket.settimeout(ANSWER)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(("", own_port))
            self.socket.connect((host, int(port)))

    def asks(self) -> float:
        """Send something, and return how many seconds the answer took."""
        began = time.monotonic()
        self.socket.sendall(b"hello")
        self.hears()
        return time.monotonic() - began

    def hears(self, seconds: float = ANSWER) -> bytes:
        self.socket.settimeout(seconds)
        data = self.socket.recv(5, socket.MSG_WAITALL)
        assert data, "the connection was closed"
        return data

    def hears_nothing(self) -> None:
        self.socket.sendall(b"hello")
        with pytest.raises(TimeoutError):
            self.hears(SILENCE)


@pytest.fixture(params=[Switch, Proxy])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    if request.param is Switch and not can_switch():
        pytest.skip("this process may not make network namespaces")
    with request.param(["s", "w"]) as network:
        yield network


@pytest.fixture
def address(network: Network) -> Iterator[str]:
    host, _ = network.listens("s", 0)
    with network.inside("s"):
        server = subprocess.Popen([sys.executable, "-c", ECHO, host], stdout=subprocess.PIPE)
    assert server.stdout is not None
    with server, server.stdout:
        yield network.listens("s", int(server.stdout.readline()))[1]
        server.kill()


@pytest.fixture
def client(network: Network, address: str) -> Iterator[Client]:
    """A client in the node "w". For a Proxy this process is a worker's, so nothing is `HERE`."""
    network.adopt("w", os.getpid())
    client = Client(network, "w", address)
    with client.socket:
        client.asks()
        yield client


@pytest.mark.parametrize("way", [("w", "s"), ("s", "w")], ids=["requests lost", "replies lost"])
def test_one_way(network: Network, client: Client, way: tuple[str, str]) -> None:
    """What is lost is lost without a RST, and comes when the link is up again."""
    network.shape(Link(loss=1), [way[0]], [way[1]])
    client.hears_nothing()
    dropped = network.dropped
    assert dropped

    network.heal()

    assert client.hears() == b"hello"


def test_isolated(network: Network, client: Client, address: str) -> None:
    network.isolate("w")
    client.hears_nothing()
    network.heal()
    assert client.hears() == b"hello"
    network.partition(["w", "s"])
    client.asks()
    network.partition(["w"], ["s"])
    client.hears_nothing()


def test_here_is_not_cut_off(network: Network, address: str) -> None:
    network.partition()
    client = Client(network, HERE, address)
    with client.socket:
        client.asks()


def test_delay_and_loss(network: Network, client: Client) -> None:
    network.shape(Link(delay=0.4), ["w"], ["s"])
    assert client.asks() >= 0.3
    network.shape(Link(loss=0.3), ["w", "s"], ["w", "s"])
    for _ in range(20):
        client.asks()
    assert network.dropped


def test_node_is_known_while_files_come_and_go(network: Network, client: Client, address: str) -> None:
    """The proxy knows a node by the files of its process, and the process opens and closes others meanwhile."""
    network.shape(Link(delay=0.04), ["w"], ["s"])
    ended = threading.Event()

    def open_and_close() -> None:
        while not ended.is_set():
            with socket.socket(), socket.socket():
                pass

    others = threading.Thread(target=open_and_close)
    others.start()
    try:
        for _ in range(20):
            new = Client(network, "w", address)
            with new.socket:
                assert new.asks() >= 0.03
    finally:
        ended.set()
        others.join()


def test_node_is_known_by_both_ends(network: Network, address: str) -> None:
    """The port that a process connects from may be that of other connections, too, which have ended."""
    network.shape(Link(delay=0.04), ["w"], ["s"])
    network.adopt("w", os.getpid())
    port = 0
    for _ in range(20):
        with network.inside("w"), socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as ended:
            ended.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ended.bind(("127.0.0.1", port))
            ended.connect(listener.getsockname())
            port = ended.getsockname()[1]
            accepted, _ = listener.accept()
            ended.close()  # first, so that it is remembered for a while
            accepted.close()
    new = Client(network, "w", address, port)
    with new.socket:
        assert new.asks() >= 0.03


def test_forgotten(network: Network, client: Client, address: str) -> None:
    """An old connection is dead without a word, also after `heal`. A new one works."""
    network.forget("w")
    client.hears_nothing()
    network.heal()
    client.hears_nothing()
    new = Client(network, "w", address)
    with new.socket:
        new.asks()


def test_refused_without_a_server(network: Network) -> None:
    """The machine of a server that has ended is there, and says so: it refuses. (A Proxy accepts, and closes.)"""
    _, address = network.listens("s", 9)  # discard: nobody listens there
    try:
        client = Client(network, "w", address)
    except ConnectionRefusedError:
        assert isinstance(network, Switch)
    else:
        with client.socket:
            assert client.socket.recv(1) == b""
