"""A value per row: computed once for all rows, then for those that changed, whatever the fleet went through meanwhile."""

import numpy as np
import pytest

from headroom.domain.model import Card, GpuNode
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet
from scheduler.placement.row_cache import ChangedRows, Columns, RowCache, RowCaches


def fleet_of(*names: str) -> Fleet:
    fleet = Fleet(rows=1)
    for name in names:
        add(fleet, name)
    return fleet


def add(fleet: Fleet, name: str) -> None:
    fleet.upsert_node(GpuNode(name, (Card("0", 0, "L4", 1000),)))


class Counted:
    """Free memory of the first card by row, and which rows were asked for."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.asked: list[list[int]] = []

    def __call__(self, rows: IntArray) -> Columns:
        self.asked.append(sorted(rows.tolist()))
        return self.fleet.free_mib[rows, 0], np.array([self.fleet.names[row] for row in rows.tolist()], np.object_)


def cache_of(fleet: Fleet) -> tuple[RowCache, Counted]:
    counted = Counted(fleet)
    return RowCache(fleet, counted, (np.int64, np.object_)), counted


def assert_true(cache: RowCache, fleet: Fleet) -> None:
    free, names = cache.current()
    size = len(fleet.names)
    assert free[:size].tolist() == fleet.free_mib[:size, 0].tolist()
    assert names[:size].tolist() == fleet.names


def test_only_rows_that_changed_are_computed_again() -> None:
    fleet = fleet_of("a", "b", "c")
    cache, counted = cache_of(fleet)
    assert_true(cache, fleet)
    fleet.take(1, [0], [100], plugin=False)
    fleet.take(1, [0], [100], plugin=False)
    assert_true(cache, fleet)
    assert_true(cache, fleet)
    assert counted.asked == [[0, 1, 2], [1]]


def test_nodes_that_come_go_and_come_again_in_a_row_of_another() -> None:
    fleet = fleet_of("a", "b")
    cache, counted = cache_of(fleet)
    cache.current()
    add(fleet, "c")
    add(fleet, "d")
    fleet.remove_node("a")
    assert_true(cache, fleet)
    add(fleet, "e")
    assert_true(cache, fleet)
    assert fleet.row_of["e"] == 0
    assert counted.asked == [[0, 1], [0, 2, 3], [0]]


def test_a_reader_that_fell_behind_the_log_computes_all_rows() -> None:
    fleet = fleet_of("a", "b")
    cache, counted = cache_of(fleet)
    cache.current()
    for _ in range(5000):
        fleet.take(0, [0], [1], plugin=False)
        fleet.give(0, [0], [1], plugin=False)
    assert fleet.changes_dropped > 2
    fleet.take(0, [0], [7], plugin=False)
    assert_true(cache, fleet)
    assert counted.asked == [[0, 1], [0, 1]]


def test_an_empty_fleet_has_no_rows_until_a_node_comes() -> None:
    fleet = Fleet()
    cache, counted = cache_of(fleet)
    assert len(cache.current()[0]) == 0
    add(fleet, "a")
    assert_true(cache, fleet)
    assert counted.asked == [[0]]


def test_rows_that_could_not_be_computed_are_computed_the_next_time() -> None:
    fleet = fleet_of("a", "b")
    faults = [ValueError("odd row")]

    def compute(rows: IntArray) -> Columns:
        if faults:
            raise faults.pop()
        return (fleet.free_mib[rows, 0],)

    cache = RowCache(fleet, compute, (np.int64,))
    with pytest.raises(ValueError, match="odd row"):
        cache.current()
    assert cache.current()[0].tolist() == [1000, 1000]


def test_two_readers_of_one_log_do_not_disturb_each_other() -> None:
    fleet = fleet_of("a", "b")
    first, second = ChangedRows(), ChangedRows()
    assert first.since_last(fleet).tolist() == [0, 1]
    fleet.touch(1)
    assert first.since_last(fleet).tolist() == [1]
    assert first.since_last(fleet).tolist() == []
    assert second.since_last(fleet).tolist() == [0, 1]


@pytest.mark.parametrize(("most_bytes", "kept"), [(32 * 8 * 40, 40), (0, 32)])
def test_the_keys_not_asked_for_longest_are_dropped(most_bytes: int, kept: int) -> None:
    fleet = fleet_of(*map(str, range(32)))
    computed: list[int] = []

    def compute(key: int, rows: IntArray) -> Columns:
        computed.append(key)
        return (np.full(len(rows), key),)

    caches = RowCaches(fleet, compute, (np.int64,), most_bytes=most_bytes)
    for key in range(50):
        (values,) = caches.of(key)
        assert set(values.tolist()) == {key}
        caches.of(0)
    computed.clear()
    for key in range(50 - kept + 1, 50):
        caches.of(key)
    assert computed == []
    caches.of(50 - kept)
    assert computed == [50 - kept]
    caches.clear()
    caches.of(49)
    assert computed == [50 - kept, 49]
