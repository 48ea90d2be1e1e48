"""SyncPoints: where a chunk of steps ends."""

import pytest

from bfc_lightning.sync_points import SyncPoints


@pytest.mark.parametrize(
    ("every", "at"),
    [([1], []), ([4, 6], [0, 3, 25]), ([1000], [1, 2, 4, 8, 29]), ([7], range(10, 14)), ([], [29])],
)
def test_nothing_that_happens_is_passed_over_and_nobody_stops_elsewhere(every, at):
    last = 29
    wanted = {
        step
        for step in range(1, last + 1)
        if step in at or any(step % interval == 0 for interval in every)
    }
    sync_points, visited = SyncPoints(every, [*at, last]), [0]
    while visited[-1] < last:
        visited.append(visited[-1] + sync_points.steps_until_next(visited[-1]))
    assert visited[1:] == sorted(wanted | {last})


def test_end_without_a_sync_point_is_refused():
    with pytest.raises(ValueError, match=r"there must be a sync point after step 9, got none\."):
        SyncPoints([], [3, 9]).steps_until_next(9)
