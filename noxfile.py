"""All that can be done with this repository: `nox` checks it, `nox -s demo` shows it, `nox -l` lists the rest.

Every session but `newest` installs the versions of constraints.txt, which `nox -s constraints` writes.
"""

import json
import os
from collections.abc import Collection
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests", "package"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)  # from the classifiers
DEPENDENCIES = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
CONSTRAINTS = Path("constraints.txt")

# Tests and demo start hundreds of Pythons. Where they may keep no compiled modules, compiling takes most of the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

TYPE_COMPLETENESS = 0.99
# The reference is made from the docstrings, so the frameworks of `quaestor.contrib` must be there.
DOCUMENTED = ".[celery,cli,django,fastapi,flask,litestar,opentelemetry,starlette]"


def groups(*names: str) -> list[str]:
    """The requirements of dependency groups, for `session.install`."""
    return list(nox.project.dependency_groups(PYPROJECT, *names))


def install(session: nox.Session, *requirements: str, free: Collection[str] = ()) -> None:
    """Install with the versions of constraints.txt; the build backend, too.

    Args:
        session: Installs them.
        requirements: As pip takes them.
        free: Names of packages whose versions are not constrained.
    """
    constraints = CONSTRAINTS
    if free:
        lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
        constraints = Path(session.create_tmp()) / "constraints.txt"
        constraints.write_text(
            "\n".join(line for line in lines if Requirement(line).name not in free), encoding="utf-8"
        )
    # pip takes the constraints of isolated builds from PIP_CONSTRAINT, and since 25.3 from PIP_BUILD_CONSTRAINT.
    variables = ("UV_BUILD_CONSTRAINT", "PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")
    session.install(*requirements, "--constraint", str(constraints), env=dict.fromkeys(variables, str(constraints)))


def run_tests(session: nox.Session, *options: str) -> None:
    """Run pytest, three tests at a time, each process with a server of its own: most tests wait for one."""
    session.run("pytest", "--numprocesses=3", *options)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, the contracts of docs/architecture.md, words, and whether tests/sync is as tests/async generates it."""
    install(session, ".", *groups("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    session.run("python", "-m", "tools.language")
    session.run("python", "-m", "tools.sync_tests", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy --strict and basedpyright, on the package and on typed uses of it; and how much of it has types."""
    install(session, ".[cli,graph]", *groups("ci", "types", "benchmarks"))
    session.run("mypy")
    basedpyright = ("basedpyright", "--pythonpath", f"{session.bin}/python")  # otherwise a .venv here counts
    session.run(*basedpyright)
    # It fails below 100 %.
    verify = ("--verifytypes", "quaestor", "--ignoreexternal", "--outputjson")
    report = session.run(*basedpyright, *verify, silent=True, success_codes=[0, 1])
    completeness = json.loads(str(report))["typeCompleteness"]["completenessScore"]
    session.log(f"{completeness:.1%} of the public symbols have known types")
    if completeness < TYPE_COMPLETENESS:
        session.error(
            f"That's less than {TYPE_COMPLETENESS:.0%}: `basedpyright --verifytypes quaestor` names the others."
        )


@nox.session
def tests(session: nox.Session) -> None:
    """All tests on the running Python with every driver, against the wheel; or those that are named."""
    install(session, ".[cli,graph]", *groups("test"))  # builds the wheel and installs it
    if session.posargs:
        session.run("pytest", *session.posargs)
    else:
        run_tests(session)


@nox.session
def coverage(session: nox.Session) -> None:
    """The same tests, with the coverage to reach."""
    install(session, ".[cli,graph]", *groups("test"))
    run_tests(session, "--cov", "--cov-report=")
    session.run("coverage", "report", "--include=*/quaestor/_core/*", "--fail-under=100")
    session.run("coverage", "report", "--omit=*/quaestor/contrib/*", "--fail-under=95")


@nox.session
def pages(session: nox.Session) -> None:
    """Do what the tutorial and the other pages say; the examples; the packages for frameworks, with their coverage."""
    install(session, ".[cli,graph]", *groups("pages"))
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    run_tests(session, "tests/pages", "tests/contrib", "--cov", "--cov-report=")
    session.run("coverage", "report", "--include=*/quaestor/contrib/*", "--fail-under=90")


@nox.session
def peers(session: nox.Session) -> None:
    """Import what other migration tools have written: installs them, with pip and npm, and lets them migrate."""
    install(session, ".", *groups("test"))
    session.run("pytest", "--numprocesses=3", "tests/peers", *session.posargs)


@nox.session
def newest(session: nox.Session) -> None:
    """The same tests with the newest version of everything: what constraints.txt will bring when it is written anew."""
    session.install("--upgrade", ".[cli,graph]", *groups("pages"))
    run_tests(session, *(session.posargs or ["tests", "tests/pages", "tests/contrib"]))


@nox.session
def package(session: nox.Session) -> None:
    """The wheel as a user gets it, made from the source distribution and installed with nothing beside it."""
    install(session, *PYPROJECT["build-system"]["requires"], *groups("package", "server"))
    dist = Path(session.create_tmp()) / "dist"
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(dist), silent=True)
    (wheel,) = dist.glob("*.whl")
    install(session, "--force-reinstall", str(wheel))
    session.run("python", "-m", "tests.package_check")


OLDEST = [
    f"{requirement.name}=={bound.version}"
    for requirement in DEPENDENCIES
    for bound in requirement.specifier
    if bound.operator == ">="
]
# `tests` has every driver on the running Python, Motor included. Here, the oldest Python has the oldest dependencies,
# the others have the newest: what depends on the one doesn't depend on the other.
COMBINATIONS = [
    nox.param(python, "newest" if position else "oldest", id=f"{python}-{'newest' if position else 'oldest'}")
    for position, python in enumerate(PYTHONS)
]


@nox.session
@nox.parametrize("python,dependencies", COMBINATIONS)
def matrix(session: nox.Session, dependencies: str) -> None:
    """The tests that touch a database on every Python, without Motor; checksums; the command line on a terminal."""
    if dependencies == "oldest":
        install(session, ".", *OLDEST, *groups("pytest"), free={requirement.name for requirement in DEPENDENCIES})
        run_tests(session, "--drivers=pymongo", *session.posargs)
        run_tests(session, "tests/test_source.py")
        return
    install(session, ".[cli]", *groups("pytest", "mongomock", "terminal"))
    run_tests(session, "--drivers=pymongo,mongomock", *session.posargs)
    run_tests(session, "tests/test_source.py", "tests/cli/test_on_a_terminal.py", "tests/cli/test_display.py")


@nox.session
def browser(session: nox.Session) -> None:
    """The pictures of the graph and the pages in a real Chromium, which must be on PATH with its driver."""
    install(session, DOCUMENTED, ".[graph]", *groups("browser", "docs"))
    session.run("pytest", "tests/browser", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Break network, server and processes on purpose, in many ways, and look at what is left."""
    install(session, ".[cli]", *groups("test"))
    run = ["pytest", "tests/faults", "--override-ini=faulthandler_timeout=3600"]  # with --long, one takes half an hour
    if session.posargs:
        session.run(*run, *session.posargs)
        return
    # Two at a time, each process with servers of its own: they mostly wait.
    session.run(*run, "-m", "not alone", "--numprocesses=2", "--dist=loadfile")
    session.run(*run, "-m", "alone")


# Names of tools/servers.py.
SERVERS = [nox.param(name, id=name) for name in ("4.4.2", "5.0.32", "6.0.27", "documentdb", "secantusdb", "nx-27017")]


@nox.session
@nox.parametrize("server", SERVERS)
def servers(session: nox.Session, server: str) -> None:
    """The tests that touch a real server, on other versions of MongoDB, and those for all servers on look-alikes."""
    install(session, ".", *groups("test"))
    tests = ["tests/async/test_servers.py", "tests/sync/test_servers.py"]
    if server[0].isdecimal():
        tests = ["--drivers=pymongo,motor"]
    elif server == "nx-27017":
        tests = ["tests/refused_server.py"]
    run = ["python", "-m", "tools.servers", server, str(session.cache_dir)]
    session.run(*run, "pytest", "--numprocesses=3", *tests, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages of docs/ and the reference as HTML, in docs/_build; a warning is an error."""
    install(session, DOCUMENTED, *groups("docs"))
    session.run("sphinx-build", "--fail-on-warning", "--keep-going", "--fresh-env", "docs", "docs/_build")


@nox.session
def demo(session: nox.Session) -> None:
    """Migrate a shop of 100,000 orders on a real server, and show it."""
    install(session, ".[cli]", *groups("demo"))
    session.run("python", "-m", "examples.shop", *session.posargs)


@nox.session
def pictures(session: nox.Session) -> None:
    """Make the pictures in docs/pictures (or in the folder that is named) from the demo."""
    install(session, ".[cli,graph]", *groups("demo", "terminal"))
    session.run("python", "-m", "tools.pictures", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Measure what it costs, and beside its peers, in about twenty minutes; writes docs/benchmarks.md. Or parts."""
    install(session, ".", *groups("benchmarks"))
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def constraints(session: nox.Session) -> None:
    """Write constraints.txt anew: the newest versions of all that the sessions and .ci/run install, on every Python."""
    session.install(*groups("ci"))
    project = PYPROJECT["project"]
    requirements = Path(session.create_tmp()) / "requirements.txt"
    lines = [
        *PYPROJECT["build-system"]["requires"],
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
        *groups(*PYPROJECT["dependency-groups"]),
    ]
    requirements.write_text("\n".join(lines), encoding="utf-8")
    options = ["--universal", "--python-version", PYTHONS[0], "--upgrade", "--strip-extras"]
    output = ["--no-header", "--no-annotate", "--quiet", "--output-file", str(CONSTRAINTS)]
    session.run("uv", "pip", "compile", *options, *output, str(requirements))
