"""All that can be done with this repository: `nox` checks it, `nox -s demo` shows it, `nox -l` lists the rest."""

from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests", "package"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)  # from the classifiers


def groups(*names: str) -> list[str]:
    """The requirements of dependency groups, for `session.install`."""
    return list(nox.project.dependency_groups(PYPROJECT, *names))


def oldest() -> list[str]:
    """The dependencies of the project, each pinned to the oldest version that its bounds allow."""
    requirements = map(Requirement, PYPROJECT["project"]["dependencies"])
    return [
        f"{requirement.name}=={bound.version}"
        for requirement in requirements
        for bound in requirement.specifier
        if bound.operator == ">="
    ]


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the contracts of docs/architecture.md."""
    session.install(".", *groups("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy --strict, on the package and on typed uses of it."""
    session.install(".[cli]", "nox", *groups("types", "benchmarks"))
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests on the running Python with the newest drivers, against the wheel, with the coverage to reach."""
    session.install(".[cli]", *groups("test"))  # builds the wheel and installs it
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    # Three at a time, each with a server of its own: most of them wait for one.
    session.run("pytest", "--numprocesses=3", "--cov", "--cov-report=")
    session.run("coverage", "report", "--include=*/quaestor/_core/*", "--fail-under=100")
    session.run("coverage", "report", "--fail-under=95")


@nox.session
def package(session: nox.Session) -> None:
    """The wheel as a user gets it, made from the source distribution and installed with nothing beside it."""
    session.install("build", *groups("server"))
    dist = Path(session.create_tmp()) / "dist"
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    (wheel,) = dist.glob("*.whl")
    session.install("--force-reinstall", str(wheel))
    session.run("python", "-m", "tests.package_check")


DRIVERS = {
    "pymongo": [*groups("pytest", "terminal"), *PYPROJECT["project"]["optional-dependencies"]["cli"]],
    "pymongo-oldest": [*groups("pytest"), *oldest()],
    "motor": groups("pytest", "motor"),
    "mongomock": groups("pytest", "mongomock"),
}


# The oldest Python with the oldest PyMongo, the others with the newest: what depends on one does not on the other.
COMBINATIONS = [
    nox.param(python, drivers, id=f"{python}-{drivers}")
    for python in PYTHONS
    for drivers in DRIVERS
    if drivers != ("pymongo" if python == PYTHONS[0] else "pymongo-oldest")
]


@nox.session
@nox.parametrize("python,drivers", COMBINATIONS)
def matrix(session: nox.Session, drivers: str) -> None:
    """The tests that touch a database, on every Python with every driver; the command line with the newest."""
    session.install(".", *DRIVERS[drivers])
    session.run("pytest", "--numprocesses=3", f"--drivers={drivers.partition('-')[0]}", *session.posargs)
    if drivers == "pymongo":
        session.run("pytest", "tests/cli/test_on_a_terminal.py", "tests/cli/test_display.py")


@nox.session
def browser(session: nox.Session) -> None:
    """The pictures of the graph in a real Chromium, which must be on PATH with its driver."""
    session.install(".[cli]", *groups("browser"))
    session.run("pytest", "tests/browser", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Break network, server and processes on purpose, in many ways, and look at what is left."""
    session.install(".", *groups("test"))
    session.run("pytest", "tests/faults", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages of docs/ and the reference as HTML, in docs/_build; a warning is an error."""
    session.install(".[cli]", *groups("docs"))
    session.run("sphinx-build", "--fail-on-warning", "--keep-going", "--fresh-env", "docs", "docs/_build")


@nox.session
def demo(session: nox.Session) -> None:
    """Migrate a shop of 100,000 orders on a real server, and show it."""
    session.install(".[cli]", *groups("demo"))
    session.run("python", "-m", "examples.shop", *session.posargs)


@nox.session
def pictures(session: nox.Session) -> None:
    """Make the pictures in docs/pictures (or in the folder that is named) from the demo."""
    session.install(".[cli]", *groups("demo", "terminal"))
    session.run("python", "-m", "tools.pictures", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Measure what it costs, and beside its peers, in about twenty minutes; writes docs/benchmarks.md. Or parts."""
    session.install(".", *groups("benchmarks"))
    session.run("python", "-m", "benchmarks", *session.posargs)
