"""The measurements: each tool in an environment of its own, in rounds, one tool after the other in each round."""

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from pymongo import MongoClient
from rich.console import Console
from rich.progress import Progress

from benchmarks.peers import environments
from benchmarks.peers.report import (
    MIGRATIONS,
    NOTHING,
    PROCESSES,
    ROUNDS,
    ROUNDS_AT_ONCE,
    ROUNDS_OF_IMPORTS,
    SLOW,
    SLOW_SECONDS,
    AtOnce,
    Report,
)
from benchmarks.peers.tool import Tool
from benchmarks.peers.tools import OURS, TOOLS

LIMIT = 300
NAME = "quaestor_benchmarks_peers"


class FailedError(RuntimeError):
    """A tool did not do what was measured; `str()` says why."""


@dataclass(frozen=True)
class Environment:
    """A tool that is installed, and where its migrations lie."""

    tool: Tool
    python: Path
    folder: Path

    def job(self, uri: str, do: str) -> str:
        """A job for a process of this environment (see job.py), as a line."""
        return json.dumps({"tool": self.tool.name, "do": do, "folder": str(self.folder), "uri": uri, "database": NAME})

    def start(self) -> subprocess.Popen[str]:
        """A process that waits for its job."""
        pipe = subprocess.PIPE
        command = [str(self.python), "-m", "benchmarks.peers.job"]
        return subprocess.Popen(command, cwd=environments.ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)  # noqa: S603 - ours

    def does(self, uri: str, do: str) -> dict[str, Any]:
        """The answer to a job.

        Raises:
            FailedError: It was not done.
        """
        with self.start() as process:
            return _answer(process, self.job(uri, do) + "\n")


def measure(uri: str, console: Console) -> Report:
    """All measurements of all tools, on an empty database of this server."""
    report = Report(OURS, {tool.name: tool.called for tool in TOOLS}, [tool.name for tool in TOOLS if tool.connects])
    with (
        tempfile.TemporaryDirectory(prefix="quaestor-peers-") as name,
        MongoClient[dict[str, Any]](uri) as client,
        Progress(console=console) as progress,
    ):
        installed = list(_installed(Path(name), report, progress))
        # One of each, where the same is imported for several drivers.
        different = list({(them.python, them.tool.imports): them for them in reversed(installed)}.values())[::-1]
        commands, rounds, crowds, imports = (
            progress.add_task(what, total=total)
            for what, total in (
                ("commands", len(installed)),
                ("rounds", ROUNDS * len(installed)),
                ("processes at once", ROUNDS_AT_ONCE * len(installed)),
                ("imports", ROUNDS_OF_IMPORTS * len(different)),
            )
        )
        try:
            for environment in installed:  # this also compiles the migrations, as in a deployment that ran before
                _guarded(report.commands, environment, lambda them: _commands(them, uri, client))
                progress.advance(commands)
            for _ in range(ROUNDS):
                for environment in installed:
                    _round(report, environment, uri, client)
                    progress.advance(rounds)
            for _ in range(ROUNDS_AT_ONCE):
                for environment in installed:
                    _gathered(report.at_once, environment, lambda them: _at_once(them, uri, client))
                    progress.advance(crowds)
            for _ in range(ROUNDS_OF_IMPORTS):
                for environment in different:
                    _gathered(report.imported, environment, lambda them: _seconds_of(them, them.tool.imports))
                    progress.advance(imports)
                if different:
                    alone = cast("list[float]", report.imported.setdefault(NOTHING, []))
                    alone.append(_seconds_of(different[0], "pass"))
        finally:
            _drop(client)
    return report


def _installed(folder: Path, report: Report, progress: Progress) -> Iterator[Environment]:
    """Those that can be installed, with their migrations laid down."""
    python = environments.newest_python()
    made: dict[tuple[str, ...], Path | str] = {}
    for tool in progress.track(TOOLS, description="environments"):
        if tool.requirements not in made:
            try:
                place = folder / f"environment_{len(made)}"
                made[tool.requirements] = environments.make(place, python, tool.requirements)
            except environments.NotInstalledError as error:
                made[tool.requirements] = f"not installed: {error}"
        found = made[tool.requirements]
        if isinstance(found, str):
            report.versions[tool.name] = found
            continue
        migrations = folder / f"migrations_{len(report.versions)}"
        migrations.mkdir()
        for name, count, seconds in (("one", 1, 0), ("many", MIGRATIONS, 0), ("slow", SLOW, SLOW_SECONDS)):
            tool.lay_down(migrations / name, count, seconds)
        environment = Environment(tool, found, migrations)
        try:
            report.versions[tool.name] = environment.does("", "versions")
        except FailedError as error:
            report.versions[tool.name] = str(error)
        else:
            yield environment


def _guarded(into: dict[str, Any], environment: Environment, measured: Callable[[Environment], Any]) -> None:
    """Keep what was measured, or why it was not."""
    try:
        into[environment.tool.name] = measured(environment)
    except FailedError as error:
        into[environment.tool.name] = str(error)


def _gathered(into: dict[str, Any], environment: Environment, measured: Callable[[Environment], Any]) -> None:
    """Keep what was measured beside the rounds before, or why it was not; then there is no further round."""
    so_far = into.get(environment.tool.name, [])
    if not isinstance(so_far, str):
        _guarded(into, environment, lambda them: [*so_far, measured(them)])


def _commands(environment: Environment, uri: str, client: MongoClient[dict[str, Any]]) -> tuple[int, int]:
    """The commands of a call that applies all, and of one with nothing to do."""
    _drop(client)
    applied = environment.does(uri, "counted")["commands"]
    _check(client)
    idle = environment.does(uri, "counted")["commands"]
    _check(client)
    return applied, idle


def _round(report: Report, environment: Environment, uri: str, client: MongoClient[dict[str, Any]]) -> None:
    """Apply all, then find nothing to do, then that from the start of a process."""

    def timed(them: Environment) -> float:
        seconds: float = them.does(uri, "timed")["seconds"]
        _check(client)
        return seconds

    def process(them: Environment) -> float:
        started = time.time()  # not perf_counter: two processes tell the time
        ended: float = them.does(uri, "once")["ended"]
        return ended - started

    _drop(client)
    _gathered(report.applied, environment, timed)
    if isinstance(why := report.applied[environment.tool.name], str):
        report.idle[environment.tool.name] = report.process[environment.tool.name] = why
        return
    _gathered(report.idle, environment, timed)
    _gathered(report.process, environment, process)


def _at_once(environment: Environment, uri: str, client: MongoClient[dict[str, Any]]) -> AtOnce:
    """Processes that have imported and connected, all told to begin."""
    _drop(client)
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(environment.start()) for _ in range(PROCESSES)]
        for process in processes:
            stack.callback(process.kill)  # where one of them gave no answer
        for process in processes:
            _tell(process, environment.job(uri, "with_others"))
        said = [cast("IO[str]", process.stdout).readline() for process in processes]
        for process in processes:
            _tell(process, "go")
        answers = [_answer(process, "", before) for process, before in zip(processes, said, strict=True)]
    return AtOnce(
        client[NAME].things.count_documents({}),
        sorted(answer["error"] for answer in answers if answer["error"]),
        max(answer["ended"] for answer in answers) - min(answer["started"] for answer in answers),
    )


def _tell(process: subprocess.Popen[str], line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # it ended, and its answer says why
        stdin = cast("IO[str]", process.stdin)
        stdin.write(line + "\n")
        stdin.flush()


def _answer(process: subprocess.Popen[str], said_to_it: str, before: str = "") -> dict[str, Any]:
    """The last line of its output."""
    try:
        output, errors = process.communicate(said_to_it or None, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise FailedError(f"no answer within {LIMIT} s") from None
    try:
        answer: dict[str, Any] = json.loads((before + output).splitlines()[-1])
    except (IndexError, ValueError):
        line = (errors.strip().splitlines() or ["it ended without an answer"])[-1]
        raise FailedError(environments.without_places(line)) from None
    if "failed" in answer:
        raise FailedError(environments.without_places(answer["failed"]))
    return answer


def _seconds_of(environment: Environment, program: str) -> float:
    """How long a new process takes for a program."""
    started = time.perf_counter()
    ended = subprocess.run([str(environment.python), "-c", program], capture_output=True, text=True, check=False)  # noqa: S603 - ours
    seconds = time.perf_counter() - started
    if ended.returncode:
        raise FailedError(environments.without_places(ended.stderr.strip().splitlines()[-1]))
    return seconds


def _check(client: MongoClient[dict[str, Any]]) -> None:
    """Each migration ran once."""
    ran = client[NAME].things.count_documents({})
    if ran != MIGRATIONS:
        raise FailedError(f"migrations ran {ran} times, not {MIGRATIONS}")


def _drop(client: MongoClient[dict[str, Any]]) -> None:
    for name in (NAME, f"{NAME}_warm"):
        client.drop_database(name)
