"""A run that is cut short by Ctrl-C."""

import pytest

from tests.processes import interrupted


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.driver("pymongo")
def test_ctrl_c(uri: str, name: str, colour: str) -> None:
    """SIGINT while a function runs: KeyboardInterrupt, the function has ended, what came before stays recorded."""
    ended = interrupted("sync", colour, uri, name)

    assert "KeyboardInterrupt" in ended.errors
    assert "quaestor: in migration 'b', 2 of 2" in ended.errors
    assert ended.lines == ["begun", "function ended", "failed"]
    assert ended.records == ["a"]
    assert ended.released
