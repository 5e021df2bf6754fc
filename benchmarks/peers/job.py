"""What runs in the environment of a tool, as a process of its own: `python -m benchmarks.peers.job`.

It reads what to do from its standard input, a line of JSON, and writes the answer as one to its standard output.
"""

import contextlib
import io
import json
import platform
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.peers.tool import Place, Tool
from benchmarks.peers.tools import TOOLS


def versions(tool: Tool) -> dict[str, Any]:
    """Of Python, the tool and its drivers."""
    found = {"Python": platform.python_version()}
    for name in (tool.distribution, *tool.drivers):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def timed(tool: Tool, place: Place, warm: Place) -> dict[str, Any]:
    """The seconds of a call, after one with another database has loaded what the tool loads late."""
    with tool.ready(warm) as run:
        run()
    with tool.ready(place) as run:
        started = time.perf_counter()
        run()
        return {"seconds": time.perf_counter() - started}


def counted(tool: Tool, place: Place) -> dict[str, Any]:
    """The commands that a call sends, without the housekeeping of sessions and monitoring."""
    from pymongo import monitoring

    from tools.commands import Commands

    commands = Commands()
    monitoring.register(commands)
    with tool.ready(place) as run:
        commands.sent.clear()
        run()
        return {"commands": len(commands.sent)}


def once(tool: Tool, place: Place) -> dict[str, Any]:
    """A call, as an application makes it when it starts: when it ended, by the machine's clock."""
    with tool.ready(place) as run:
        run()
        return {"ended": time.time()}


def with_others(tool: Tool, place: Place) -> dict[str, Any]:
    """A call when told to, by a line: when it began and ended, by the machine's clock, and with which error."""
    with tool.ready(place) as run:
        print("ready", file=sys.__stdout__, flush=True)
        sys.stdin.readline()
        started, error = time.time(), None
        try:
            run()
        except (Exception, SystemExit) as raised:  # noqa: BLE001 - that, too, is measured
            error = type(raised).__name__
        return {"started": started, "ended": time.time(), "error": error}


def _place(job: Mapping[str, Any], folder: str, database: str) -> Place:
    return Place(Path(job["folder"]) / folder, job["uri"], job["database"] + database)


def main() -> None:
    """Do what is asked for."""
    job = json.loads(sys.stdin.readline())
    tool = next(tool for tool in TOOLS if tool.name == job["tool"])
    answer: dict[str, Any]
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some tools print
            match job["do"]:
                case "versions":
                    answer = versions(tool)
                case "timed":
                    answer = timed(tool, _place(job, "many", ""), _place(job, "one", "_warm"))
                case "counted":
                    answer = counted(tool, _place(job, "many", ""))
                case "once":
                    answer = once(tool, _place(job, "many", ""))
                case "with_others":
                    answer = with_others(tool, _place(job, "slow", ""))
    except (Exception, SystemExit) as raised:  # noqa: BLE001 - the measurement of this tool failed, the rest goes on
        answer = {"failed": f"{type(raised).__name__}: {raised}"}
    print(json.dumps(answer))  # noqa: T201 - it is how the processes talk


if __name__ == "__main__":
    main()
