"""The wheel as a user gets it: complete, installed with its dependencies alone, and usable. Run by `nox -s package`."""

import importlib.metadata
import importlib.util
import re
import subprocess
from pathlib import Path

from pymongo import MongoClient

import quaestor
from tools.mongod import server


def main() -> None:
    """Check the files and the metadata, then migrate a real database."""
    package = Path(quaestor.__file__).parent
    assert "site-packages" in package.parts, package
    assert (package / "py.typed").exists()
    for absent in ("motor", "mongomock", "pytest"):
        assert importlib.util.find_spec(absent) is None, absent
    metadata = importlib.metadata.metadata("mongo-quaestor")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    needed = [one for one in importlib.metadata.requires("mongo-quaestor") or [] if "extra ==" not in one]
    assert sorted(needed) == ["anyio>=4.4", "pymongo<5,>=4.17"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    description = str(metadata.get_payload())
    assert "](https://" in description
    assert not re.search(r"""\]\((?!https://)|(src|srcset)="(?!https://)""", description)  # a link that is relative
    assert all(", https://" in url for url in metadata.get_all("Project-URL"))
    assert quaestor.__version__ == metadata["Version"]
    said = subprocess.run(["quaestor", "status"], capture_output=True, text=True, check=False)  # noqa: S607 - as users do
    assert (said.returncode, said.stdout) == (2, "")
    assert "pip install 'mongo-quaestor[cli]'" in said.stderr, said.stderr
    for part in ("page.html", "picture.css"):
        assert (package / "cli" / part).exists(), part

    registry = quaestor.MigrationRegistry()
    registry.register("first")(lambda db: db.things.insert_one({}))
    with server() as uri, MongoClient(uri) as client:
        name = "quaestor_test_package"
        client.drop_database(name)
        assert registry.run_sync(client[name], "app") == ["first"]
        assert registry.run_sync(client[name], "app") == []
        client.drop_database(name)
    print(f"mongo-quaestor {metadata['Version']}: the wheel is complete and works")


if __name__ == "__main__":
    main()
