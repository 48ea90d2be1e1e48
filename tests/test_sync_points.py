"""SyncPoints: where a chunk of steps ends."""

import itertools

import pytest
import torch

from bfc_lightning.sync_points import SyncPoints
from bfc_lightning.types import StepChunk


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
    points, visited = SyncPoints(every, [*at, last]), [0]
    while (step := visited[-1]) < last:
        visited.append(step + points.steps_until_next(step))
    assert visited[1:] == sorted(wanted | {last})


def test_end_without_a_sync_point_is_refused():
    with pytest.raises(ValueError, match=r"there must be a sync point after step 9, got none\."):
        SyncPoints([], [3, 9]).steps_until_next(9)


@pytest.mark.parametrize(("seconds", "total", "next_"), [(0.05, 1, 1), (0.35, 6, 5), (1e9, 34, 20)])
def test_chunks_fill_the_time_budget_and_no_more(monkeypatch, seconds, total, next_):
    monkeypatch.setattr("time.monotonic", itertools.count(step=0.1).__next__)
    monkeypatch.setattr("bfc_lightning.sync_points._CHUNK_SECONDS", seconds)

    def draw(most: int) -> StepChunk:
        return StepChunk(torch.zeros(min(most, 20), 4, 2), torch.zeros(min(most, 20), 4))

    points = SyncPoints([34], [])
    assert sum(len(chunk.labels) for chunk in points.chunks(draw, 0)) == total
    assert len(next(points.chunks(draw, 0)).labels) == next_  # a block has 20
