"""A network whose faults are black holes: packets vanish, nobody gets a RST, and no connection is refused.

`network()` gives one of two kinds with one interface. Nodes are names, such as "s0" and "w3":

- `Switch`: each node is a network namespace with an address in 10.213.0.0/24, which exists in these namespaces only.
  Packets go through TUN devices and a thread of this process. It needs Linux, /dev/net/tun and CAP_SYS_ADMIN (root).
- `Proxy`: all nodes are on 127.0.0.1, and the addresses of servers are those of a TCP proxy, which knows a client's
  node by its process. While a link is down, it reads nothing, writes nothing and closes nothing. It needs Linux.

A server starts, and a client connects, `inside` a node. Links go from one node to another, in one direction.
"""

import contextlib
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

HERE = "here"
"""The node of this process, for looking at the servers. Only `shape` and `isolate` cut it off, if it is named."""


@dataclass(frozen=True)
class Link:
    """What happens to packets from one node to another.

    Attributes:
        delay: Seconds that each takes, give or take a quarter.
        loss: The share that vanishes. (The proxy has no packets: it waits for as long as TCP would for a repetition.)
    """

    delay: float = 0
    loss: float = 0

    @property
    def is_down(self) -> bool:
        """Say whether nothing arrives."""
        return self.loss >= 1


UP, DOWN = Link(), Link(loss=1)


class Network(ABC):
    """A network in which all links are up.

    Attributes:
        nodes: Their names; the last one is `HERE`.
        dropped: How many packets vanished (of the proxy: how often data waited).
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = (*nodes, HERE)
        self.dropped = 0
        self._links: Mapping[tuple[str, str], Link] = {}
        self._random = random.Random(0)  # noqa: S311 - nothing is secret

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """End it. The processes in it have to end before."""

    @abstractmethod
    def inside(self, node: str) -> contextlib.AbstractContextManager[None]:
        """Be in a node: where this thread opens sockets, and starts processes and threads, until the context ends."""

    @abstractmethod
    def listens(self, node: str, port: int) -> tuple[str, str]:
        """Return where a server that uses this port binds, and the "host:port" that the other nodes connect to."""

    @abstractmethod
    def adopt(self, node: str, pid: int) -> None:
        """Say that a process belongs to a node. `inside` is enough for a Switch, and not for a Proxy."""

    @abstractmethod
    def forget(self, *nodes: str) -> None:
        """Forget the connections that these nodes have, as a firewall does that restarts: their packets vanish.

        New connections work. `heal` doesn't bring the old ones back.
        """

    def shape(self, link: Link, sources: Iterable[str], targets: Iterable[str]) -> None:
        """Let the links from all sources to all targets be so. `HERE` is meant only where it is named."""
        pairs = itertools.product(sources, list(targets))
        self._links = {**self._links, **dict.fromkeys(pairs, link)}  # replaced: threads are reading it

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut every node off from those with which it shares no group. A node in no group is alone."""
        together = {pair for group in map(list, groups) for pair in itertools.product(group, repeat=2)}
        apart = [pair for pair in itertools.permutations(self.nodes[:-1], 2) if pair not in together]
        self._links = {**self._links, **dict.fromkeys(apart, DOWN)}

    def isolate(self, node: str, *others: str) -> None:
        """Cut a node off from these nodes, or from all, in both directions."""
        rest = [other for other in others or self.nodes[:-1] if other != node]
        self.shape(DOWN, [node], rest)
        self.shape(DOWN, rest, [node])

    def heal(self) -> None:
        """Let all links be up again."""
        self._links = {}

    def _link(self, source: str, target: str) -> Link:
        return self._links.get((source, target), UP)


def network(nodes: Sequence[str]) -> Network:
    """Make a Switch where this machine allows it, otherwise a Proxy. QUAESTOR_NETWORK=proxy asks for the latter."""
    wanted = os.environ.get("QUAESTOR_NETWORK")
    return Proxy(nodes) if wanted == "proxy" or not can_switch() else Switch(nodes)


def can_switch() -> bool:
    """Say whether this process may make network namespaces and TUN devices."""
    try:
        _Namespace("10.213.0.254").close()
    except OSError:
        return False
    return True


_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI, _IFF_UP = 0x0001, 0x1000, 0x0001
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU = 0x8914, 0x8916, 0x891C, 0x8922
_MTU = 16_000  # large packets, because each costs a turn of Python's
_PAUSE = 0.05  # seconds between two looks at what nothing wakes us for


def _call(function: str, *arguments: int) -> None:
    """Call a function of libc. Python 3.12 has `os.unshare` and `os.setns`."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


class _Namespace:
    """A network namespace with a loopback and a TUN device. The kernel ends it after its last process and file."""

    def __init__(self, address: str) -> None:
        self.address = address
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _call("unshare", _CLONE_NEWNET)
            try:
                self._file = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
                self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                self._configure()
            finally:
                _call("setns", before, _CLONE_NEWNET)
        finally:
            os.close(before)

    def _configure(self) -> None:
        fcntl.ioctl(self.tun, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:

            def set_up(request: int, device: bytes, *, address: str = "", number: int = 0) -> None:
                value = struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(address)) if address else b""
                value = value or struct.pack("i", number)
                fcntl.ioctl(control, request, struct.pack("16s24s", device, value))

            set_up(_SIOCSIFFLAGS, b"lo", number=_IFF_UP)
            set_up(_SIOCSIFADDR, b"tun0", address=self.address)
            set_up(_SIOCSIFNETMASK, b"tun0", address="255.255.255.0")
            set_up(_SIOCSIFMTU, b"tun0", number=_MTU)
            set_up(_SIOCSIFFLAGS, b"tun0", number=_IFF_UP)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _call("setns", self._file, _CLONE_NEWNET)
            yield
        finally:
            _call("setns", before, _CLONE_NEWNET)
            os.close(before)

    def close(self) -> None:
        os.close(self.tun)
        os.close(self._file)


class Switch(Network):
    """Nodes in network namespaces, joined by a thread that reads packets and writes them elsewhere, or doesn't."""

    def __init__(self, nodes: Sequence[str]) -> None:
        super().__init__(nodes)
        self._namespaces = {node: _Namespace(f"10.213.0.{number}") for number, node in enumerate(self.nodes, 1)}
        self._names = {socket.inet_aton(space.address): node for node, space in self._namespaces.items()}
        self._flows: set[bytes] = set()
        self._forgotten: set[bytes] = set()
        self._late: list[tuple[float, int, int, bytes]] = []
        self._count = itertools.count()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="switch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for space in self._namespaces.values():
            space.close()

    def inside(self, node: str) -> contextlib.AbstractContextManager[None]:
        """Move this thread into the namespace."""
        return self._namespaces[node].entered()

    def listens(self, node: str, port: int) -> tuple[str, str]:
        """Return the address of the namespace, and the same with the port."""
        address = self._namespaces[node].address
        return address, f"{address}:{port}"

    def adopt(self, node: str, pid: int) -> None:
        """Do nothing: processes stay in the namespace that they were started in."""

    def forget(self, *nodes: str) -> None:
        """Drop all packets of the connections that have been seen."""
        for flow in self._flows.copy():
            ends = {self._names[flow[:4]], self._names[flow[6:10]]}
            if ends & {*nodes} and HERE not in ends:
                self._forgotten.add(flow)

    def _run(self) -> None:
        poll = select.poll()
        sources = {space.tun: node for node, space in self._namespaces.items()}
        for tun in sources:
            poll.register(tun, select.POLLIN)
        while not self._ended.is_set():
            wait = min(_PAUSE, self._late[0][0] - time.monotonic()) if self._late else _PAUSE
            for tun, _ in poll.poll(max(0, wait) * 1_000):
                with contextlib.suppress(BlockingIOError):
                    self._route(sources[tun], os.read(tun, 65_536))
            while self._late and self._late[0][0] <= time.monotonic():
                _, _, tun, packet = heapq.heappop(self._late)
                _deliver(tun, packet)

    def _route(self, source: str, packet: bytes) -> None:
        target = self._names.get(packet[16:20])
        if packet[0] >> 4 != 4 or target is None:  # noqa: PLR2004 - IPv4; the kernel sends IPv6 to nobody
            return
        link = self._link(source, target)
        if self._is_forgotten(packet) or self._random.random() < link.loss:
            self.dropped += 1
            return
        tun = self._namespaces[target].tun
        if link.delay:
            due = time.monotonic() + link.delay * self._random.uniform(0.75, 1.25)
            heapq.heappush(self._late, (due, next(self._count), tun, packet))
        else:
            _deliver(tun, packet)

    def _is_forgotten(self, packet: bytes) -> bool:
        """Say whether the packet belongs to a connection that was forgotten; remember the others."""
        start = (packet[0] & 0x0F) * 4
        ends = (packet[12:16] + packet[start : start + 2], packet[16:20] + packet[start + 2 : start + 4])
        flow = min(ends) + max(ends)
        flags = packet[start + 13 : start + 14]
        if flags and flags[0] & 0x12 == 0x02 and flow in self._forgotten:  # noqa: PLR2004 - SYN, no ACK: a new one
            self._forgotten -= {flow}
        self._flows.add(flow)
        return flow in self._forgotten


def _deliver(tun: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # its queue is full, so the packet is lost, as it would be anywhere
        os.write(tun, packet)


@dataclass(eq=False)
class _Connection:
    source: str
    target: str
    near: socket.socket
    far: socket.socket
    is_forgotten: bool = False


class Proxy(Network):
    """Nodes on 127.0.0.1. Each server has a listener here, and each connection two threads."""

    def __init__(self, nodes: Sequence[str]) -> None:
        super().__init__(nodes)
        self._ports: dict[str, int] = {}
        self._listeners: dict[str, socket.socket] = {}
        self._pids: dict[int, str] = {}
        self._connections: set[_Connection] = set()
        self._has_ended = False

    def __exit__(self, *_: object) -> None:
        self._has_ended = True
        sockets = [each for connection in self._connections.copy() for each in (connection.near, connection.far)]
        for each in (*self._listeners.values(), *sockets):
            with contextlib.suppress(OSError):  # it isn't connected any more
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    @contextlib.contextmanager
    def inside(self, node: str) -> Iterator[None]:  # noqa: ARG002 - a Switch needs it
        """Do nothing: processes are known when they are adopted, and others are `HERE`."""
        yield

    def listens(self, node: str, port: int) -> tuple[str, str]:
        """Return the address of this machine, and that of the server's listener here."""
        self._ports[node] = port
        if node not in self._listeners:
            listener = self._listeners[node] = socket.create_server(("127.0.0.1", 0), backlog=128)
            _start(self._accept, node, listener)
        return "127.0.0.1", f"127.0.0.1:{self._listeners[node].getsockname()[1]}"

    def adopt(self, node: str, pid: int) -> None:
        """Take connections of this process for the node's."""
        self._pids[pid] = node

    def forget(self, *nodes: str) -> None:
        """Transmit nothing more on the connections that there are."""
        for connection in self._connections.copy():
            ends = {connection.source, connection.target}
            connection.is_forgotten |= bool(ends & {*nodes}) and HERE not in ends

    def _accept(self, node: str, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                near, _ = listener.accept()
                _start(self._connect, node, near)

    def _connect(self, target: str, near: socket.socket) -> None:
        with socket.socket() as far, near:
            connection = _Connection(self._node_of(near), target, near, far)
            self._connections.add(connection)
            try:
                self._wait(connection, connection.source, target)
                far.connect(("127.0.0.1", self._ports[target]))
                for each in (near, far):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = _start(self._pump, connection, far, near, target, connection.source)
                self._pump(connection, near, far, connection.source, target)
                back.join()
            except OSError:  # nobody listens, and the machine of a server says so
                return
            finally:
                self._connections.discard(connection)

    def _pump(
        self, connection: _Connection, read: socket.socket, write: socket.socket, source: str, target: str
    ) -> None:
        data = b"?"
        while data:
            try:
                data = read.recv(65_536)
            except OSError:
                data = b""  # reset, which is passed on as an end
            self._wait(connection, source, target)
            try:
                write.sendall(data) if data else write.shutdown(socket.SHUT_WR)
            except OSError:  # nobody is there any more
                data = b""
                with contextlib.suppress(OSError):
                    read.shutdown(socket.SHUT_RD)

    def _wait(self, connection: _Connection, source: str, target: str) -> None:
        """Wait until the link would have transmitted what was sent."""
        link = self._link(source, target)
        time.sleep(link.delay * self._random.uniform(0.75, 1.25))
        repeated = 0.2
        while not self._has_ended and (connection.is_forgotten or self._random.random() < link.loss):
            self.dropped += 1
            time.sleep(_PAUSE if link.is_down or connection.is_forgotten else repeated)
            repeated *= 2
            link = self._link(source, target)

    def _node_of(self, connected: socket.socket) -> str:
        """The node of the process at the other end of this socket."""
        name = f"socket:[{_inode_of(connected)}]"
        return next((node for pid, node in list(self._pids.items()) if name in _files_of(pid)), HERE)


def _inode_of(connected: socket.socket) -> str | None:
    """The inode of the other end's socket. A read of the kernel's table may miss a row while others come and go."""
    try:
        ports = [connected.getpeername()[1], connected.getsockname()[1]]
    except OSError:  # it isn't connected any more
        return None
    # Both, because one port can have several connections, also some that have ended.
    ends = [f"0100007F:{port:04X}" for port in ports]
    for _ in range(10):
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        if inode := next((row[9] for row in rows if row[1:3] == ends), None):
            return inode
    return None


def _files_of(pid: int) -> set[str]:
    """What a process has open. One file less is no news: listing a folder is an open file, too, and then is none."""
    found = set()
    with contextlib.suppress(OSError):  # the process has ended
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(file.readlink()))
    return found


def _start(target: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()
    return thread
