"""The dependency graph as a picture: what is said about it must hold for every graph, and in a real browser."""

import dataclasses
import itertools
import random
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console, Group

from quaestor.cli import pictures
from quaestor.cli.layout import HEIGHT, Box, layout
from quaestor.status import MigrationStatus, Status
from tests.graphs import AWKWARD, Needs, shaped, status

SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def graphs(draw: st.DrawFn) -> Needs:
    """Names, each with some of those before it: a graph without a circle, in order."""
    size = draw(st.integers(0, 24))
    return {
        f"m{index}": tuple(f"m{other}" for other in draw(st.sets(st.integers(0, index - 1), max_size=4)))
        if index
        else ()
        for index in range(size)
    }


def parsed(picture: str) -> ET.Element:
    return ET.fromstring(picture)  # noqa: S314 - what is parsed is our own


def boxes(picture: str) -> dict[str, ET.Element]:
    """The boxes of an SVG, by the names that stand in them."""
    found = parsed(picture).iterfind(f".//{SVG}g[@id]")
    return {box.findtext(f"{SVG}text[@class='name']", ""): box for box in found}


def overlap(one: Box, left: float, top: float, right: float, bottom: float) -> bool:
    return one.x < right and left < one.right and one.y < bottom and top < one.y + HEIGHT


TWO_GROUPS: Needs = {"a": (), "b": ("a",), "c": (), "d": ("c",), "e": ("d",), "f": ("c", "e"), "g": ("c", "d", "f")}
"""Two groups, one of which has lines that cross columns."""


class TestLayout:
    @given(graphs(), st.randoms(use_true_random=False))
    def test_every_name_stands_once_and_no_two_boxes_overlap(self, needs: Needs, chance: random.Random) -> None:
        placed = layout(needs, {name: chance.uniform(40, 600) for name in needs})
        assert placed.boxes.keys() == needs.keys()
        for one, other in itertools.combinations(placed.boxes.values(), 2):
            assert not overlap(one, other.x, other.y, other.right, other.y + HEIGHT)

    @given(graphs(), st.randoms(use_true_random=False))
    @example(TWO_GROUPS, random.Random(1))  # noqa: S311 - widths of boxes
    def test_every_dependency_is_a_line_from_left_to_right_that_meets_no_other_box(
        self, needs: Needs, chance: random.Random
    ) -> None:
        placed = layout(needs, {name: chance.uniform(40, 600) for name in needs})
        assert placed.routes.keys() == {(needed, name) for name in needs for needed in needs[name]}
        for (needed, dependent), corners in placed.routes.items():
            start, end = placed.boxes[needed], placed.boxes[dependent]
            assert start.right < end.x
            assert corners[0] == (start.right, start.middle)
            assert corners[-1] == (end.x, end.middle)
            others = [box for name, box in placed.boxes.items() if name not in (needed, dependent)]
            for (left, above), (right, below) in itertools.pairwise(corners):
                assert left <= right
                top, bottom = sorted((above, below))
                assert not any(overlap(box, left, top, right, bottom) for box in others)

    @given(graphs())
    def test_everything_lies_within_the_picture(self, needs: Needs) -> None:
        placed = layout(needs, dict.fromkeys(needs, 100.0))
        width, height = placed.size
        points = [corner for corners in placed.routes.values() for corner in corners]
        points += [(box.x, box.y) for box in placed.boxes.values()]
        points += [(box.right, box.y + HEIGHT) for box in placed.boxes.values()]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)

    def test_what_depends_on_nothing_fills_a_grid_and_not_one_long_column(self) -> None:
        placed = layout(shaped("independent"), dict.fromkeys(shaped("independent"), 200.0))
        width, height = placed.size
        assert 0.5 < width / height < 3


class TestSvg:
    def test_tells_each_state_by_a_sign_as_well_as_by_a_colour(self) -> None:
        picture = pictures.svg(
            status(
                {"a": (), "b": (), "c": (), "d": (), "e": ()},
                interrupted="c",
                running="d",
                failed="e",
                unknown=("gone",),
            )
        )
        looks = {name: (box.get("class"), box.findtext(f"{SVG}text")) for name, box in boxes(picture).items()}
        assert looks == {
            "a": ("box applied", "✓"),
            "b": ("box applied", "✓"),
            "c": ("box interrupted", "!"),
            "d": ("box running", "▸"),
            "e": ("box failed", "✗"),
            "gone": ("box unknown", "?"),
        }
        assert parsed(picture).findtext(f"{SVG}title") == (
            "shop/app: 2 ✓ applied, 1 ▸ running, 1 ! interrupted, 1 ✗ failed, 1 ? unknown"
        )

    def test_a_tooltip_says_when_it_was_applied_what_it_does_and_what_it_needs(self) -> None:
        tooltip = boxes(pictures.svg(status({"a": (), "b": ("a",), "c": (), "d": ()})))["b"].findtext(f"{SVG}title")
        assert tooltip == "b\napplied, recorded 2026-03-01 09:30:00 UTC\nA description.\nneeds a"

    def test_a_tooltip_says_why_it_failed(self) -> None:
        tooltip = boxes(pictures.svg(status({"a": (), "b": ()}, failed="b")))["b"].findtext(f"{SVG}title")
        assert tooltip == "b\nfailed\nValueError: boom\nA description."

    def test_any_name_and_description_makes_sound_xml(self) -> None:
        picture = pictures.svg(status(dict.fromkeys(AWKWARD, ())))
        assert set(boxes(picture)) >= {'say "hello"', "two\\nlines\\", r"\x1b[31mred", "x" * 80, AWKWARD[1]}
        assert len(boxes(picture)) == len(AWKWARD)

    def test_nothing_to_draw_is_a_picture_too(self) -> None:
        assert "no migrations" in pictures.svg(status({}))


class TestNotations:
    def test_mermaid_has_a_node_for_each_migration_and_an_arrow_for_each_dependency(self) -> None:
        assert pictures.mermaid(status({"a": (), "b_2": ("a",)}, unknown=("old",))).splitlines()[:7] == [
            "---",
            'title: "shop/app: 1 ✓ applied, 1 ○ pending, 1 ? unknown"',
            "---",
            "flowchart LR",
            '  m0["✓ a"]:::applied',
            '  m1["○ b_2"]:::pending',
            '  m2["? old"]:::unknown',
        ]
        assert "  m0 --> m1" in pictures.mermaid(status({"a": (), "b_2": ("a",)}))

    def test_mermaid_has_no_class_without_a_colour(self) -> None:
        drawn = status({"a": ()})
        gone = MigrationStatus("old", "replaced", replaced_by="a")
        picture = pictures.mermaid(dataclasses.replace(drawn, migrations=(*drawn.migrations, gone)))
        assert "1 → replaced" in picture
        assert re.findall(r"classDef (\w+) fill:#", picture) == re.findall("classDef ([a-z]+)", picture) != []

    def test_mermaid_gets_what_has_a_meaning_in_it_as_codes(self) -> None:
        labels = re.findall(r'\["(.*)"\]', pictures.mermaid(status(dict.fromkeys(AWKWARD, ()))))
        decoded = [re.sub(r"#(\d+);", lambda code: chr(int(code[1])), label)[2:] for label in labels]
        assert decoded[0] == AWKWARD[0]
        assert decoded[7] == AWKWARD[7]
        assert not any(set('"<>&`*\\%') & set(label) for label in labels)

    def test_dot_has_a_node_for_each_migration_and_an_arrow_for_each_dependency(self) -> None:
        graph = pictures.dot(status({"a": (), "b": ("a",)}))
        assert graph.startswith("digraph migrations {\n")
        assert '  m1 [label="○ b", fillcolor="#ffffff", color="#64748b"]\n  m0 -> m1\n}\n' in graph

    def test_dot_takes_any_name_as_a_label(self) -> None:
        graph = pictures.dot(status(dict.fromkeys(AWKWARD, ())))
        assert r'label="✓ say \"hello\""' in graph
        assert r'label="✓ two\\nlines\\"' in graph
        assert "&lt;b&gt;&amp;amp;" in graph


class TestTerminal:
    @given(graphs())
    def test_the_lanes_say_exactly_what_depends_on_what(self, needs: Needs) -> None:
        linked = {name: before for name, before in needs.items() if before or any(name in n for n in needs.values())}
        assert _read(_printed(status(needs), 400)) == {name: set(before) for name, before in linked.items()}

    @pytest.mark.parametrize("shape", ["chain", "fan", "layered", "independent"])
    @pytest.mark.parametrize("width", [40, 80, 120])
    def test_no_line_is_wider_than_the_terminal_and_every_name_is_there(self, shape: str, width: int) -> None:
        needs = shaped(shape)
        printed = _printed(status(needs), width)
        assert max(map(len, printed.splitlines())) <= width
        assert sorted(re.findall(r"[✓○] (backfill\S+)", printed)) == sorted(needs)

    def test_where_lanes_do_not_fit_the_names_of_dependencies_stand_below(self) -> None:
        first, second = "a", "b" * 30
        printed = _printed(status({first: (), second: (first,)}), 34)
        assert [line.strip() for line in printed.splitlines() if line][-3:] == [
            f"✓ {first}",
            f"○ {second}",
            f"needs {first}",
        ]

    def test_a_name_cannot_steer_the_terminal_or_be_taken_for_markup(self) -> None:
        printed = _printed(status(dict.fromkeys(["\x1b[31mred", "[bold]name", ":smile:"], ())), 80)
        assert r"\x1b[31mred" in printed
        assert "[bold]name" in printed
        assert ":smile:" in printed


def _printed(given_status: Status, width: int) -> str:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(Group(*pictures.terminal(given_status, width)))
    return captured.get()


def _read(printed: str) -> dict[str, set[str]]:
    """What the lanes say, read as a person would: along the arms of each dot, and up the lanes that these meet."""
    needs: dict[str, set[str]] = {}
    lanes: dict[int, str] = {}
    for line in printed.splitlines()[2:]:
        if "●" not in line:
            continue
        art, name = re.split(r" +[✓○] ", line)
        dot = art.index("●")
        left = _met(art, range(dot - 1, -1, -1), "├╰")
        right = _met(art, range(dot + 1, len(art)), "┤╯")
        straight = [dot] if dot in lanes and art[dot - 1 : dot] != "─" else []
        needs[name] = {lanes[column] for column in (*left, *right, *straight)}
        lanes = {column: lane for column, lane in lanes.items() if art[column : column + 1] in tuple("│├┤┼")}
        lanes[dot] = name
    return needs


def _met(art: str, columns: range, ends: str) -> list[int]:
    met: list[int] = []
    if not columns or art[columns[0]] != "─":
        return met
    for column in columns:
        if art[column] in "┼┴" + ends:
            met.append(column)
        if art[column] in ends:
            break
    return met
