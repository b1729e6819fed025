"""The tables of placement studies: what stands in which column, and over which lists a mean goes."""

from simulations.placement.replay import Record
from simulations.placement.tables import Figures, matrix_table, published_table

PUBLISHED: Figures = {
    ("one", "FGD", 100): (89.0, 0.2),
    ("one", "FGD", 130): (90.0, 0.2),
    ("one", "Random", 100): (5, 0),
}


def record(trace: str, policy: str, seed: int, allocated: float) -> Record:
    return Record(trace, policy, seed, alloc_at={100: allocated})


def cells(text: str) -> list[list[str]]:
    """The cells of a table, without the line under its head."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [lines[0], *lines[2:]]


RECORDS = [
    record("one", "fgd", 1, 88.0), record("one", "fgd", 2, 90.0), record("one", "headroom", 1, 91.0),
    record("two", "fgd", 1, 80.0), record("two", "headroom", 1, 80.5),
]  # fmt: skip


def test_a_line_per_list_a_column_per_policy_and_the_gain() -> None:
    assert cells(matrix_table(RECORDS, 100)) == [
        ["alloc % at 100", "fgd", "headroom", "headroom - fgd"],
        ["one", "89.00", "91.00", "+2.00"],
        ["two", "80.00", "80.50", "+0.50"],
        ["mean", "84.50", "85.75", "+1.25"],
    ]


def test_published_figures_and_bounds_stand_beside_the_policies() -> None:
    bounds = {"one": 95.0, "two": 85.0}
    assert cells(matrix_table(RECORDS, 100, published=PUBLISHED, bounds=bounds)) == [
        ["alloc % at 100", "fgd", "headroom", "FGD, published", "bound", "headroom - fgd", "headroom - published"],
        ["one", "89.00", "91.00", "89.00", "95.00", "+2.00", "+2.00"],
        ["two", "80.00", "80.50", "-", "85.00", "+0.50", "-"],
        ["mean", "84.50", "85.75", "", "90.00", "+1.25", "+2.00"],
    ]


def test_a_mean_over_lists_leaves_out_a_list_that_some_policy_did_not_run() -> None:
    table = cells(matrix_table([*RECORDS, record("three", "fgd", 1, 10.0)], 100))
    assert table[3:] == [["three", "10.00", "-", "-"], ["mean", "84.50", "85.75", "+1.25"]]


def test_one_list_needs_no_mean() -> None:
    assert [line[0] for line in cells(matrix_table(RECORDS[:2], 100))] == ["alloc % at 100", "one"]


def test_figures_outside_the_margin_are_listed_again() -> None:
    records = [*RECORDS, record("one", "random", 1, 7.0)]
    full, verdict, outside = published_table(records, PUBLISHED).split("\n\n")
    assert [(line[1], line[4], line[6], line[7]) for line in cells(full)[1:]] == [
        ("fgd", "same policy", "+0.00", "yes"),
        ("headroom", "FGD", "+2.00", "-"),
        ("random", "same policy", "+2.00", "NO"),
    ]
    assert verdict == "1 of 2 figures of the same policy are within the margin; outside are:"
    assert [line[1] for line in cells(outside)[1:]] == ["random"]
