"""Frames and positions that come in any order, late, twice or not at all."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ptycho_ray.live.joining import HOLD_S, MOST_FRAMES, Joiner
from ptycho_ray.live.wire_events import ranges


class Now:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def frames(*numbers: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames whose pixels are their number."""
    return np.array(numbers, np.int64), np.stack([np.full((4, 4), number % 2**16, np.uint16) for number in numbers])


def places(*numbers: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array(numbers, np.int64), np.array([[number, -number] for number in numbers], float)


@given(
    st.permutations(list(range(12))),
    st.permutations(list(range(12))),
    st.lists(st.booleans(), min_size=24, max_size=24),
)
def test_any_order_gives_the_scan(one: list[int], other: list[int], turns: list[bool]) -> None:
    joiner, found = Joiner(12, clock=Now()), []
    first, second = iter(one), iter(other)
    for turn in [*turns, *[True] * 12, *[False] * 12]:
        number = next(first if turn else second, None)
        if number is None:
            continue
        if turn:
            joiner.add_frames(*frames(number))
        else:
            joiner.add_positions(*places(number))
        found += [joiner.take()]
    found = [piece for piece in [*found, joiner.finish()] if piece is not None]
    numbers = np.concatenate([piece.numbers for piece in found])
    assert numbers.tolist() == list(range(12))
    for piece in found:
        np.testing.assert_array_equal(piece.positions[:, 0], piece.numbers)
        np.testing.assert_array_equal(piece.patterns[:, 0, 0], piece.numbers)
    assert joiner.tally.lines() == []


def test_a_missing_frame_holds_the_others_back_for_a_while_only() -> None:
    now = Now()
    joiner = Joiner(clock=now)
    joiner.add_positions(*places(*range(8)))
    joiner.add_frames(*frames(0, 1, 3, 5))
    piece = joiner.take()
    assert piece is not None
    assert piece.numbers.tolist() == [0, 1]
    assert joiner.take() is None
    now.seconds = HOLD_S + 0.1
    joiner.add_frames(*frames(7))
    piece = joiner.take()
    assert piece is not None
    assert piece.numbers.tolist() == [3, 5]
    joiner.add_frames(*frames(2))
    piece = joiner.take()
    assert piece is not None
    assert piece.numbers.tolist() == [2]
    joiner.finish()
    assert (joiner.tally.late, joiner.tally.missing.tolist()) == ([2], [4, 6])


def test_what_has_no_partner_is_told_and_takes_no_more_memory_than_it_may() -> None:
    joiner = Joiner(10, waiting_bytes=3 * 32, clock=Now())
    joiner.add_frames(*frames(0, 1, 2, 3, 4, 4))
    joiner.tally.dropped_by_receiver += [7]
    joiner.add_positions(*places(3, 4, 6, 7, 8))
    joiner.add_frames(*frames(MOST_FRAMES, -1))
    last = joiner.finish()
    assert last is not None
    assert last.numbers.tolist() == [3, 4]
    tally = joiner.tally
    assert (tally.duplicates, tally.dropped_without_position) == ([4], [0, 1, 2])
    assert tally.missing.tolist() == [5, 6, 8, 9]
    assert tally.positions_without_frame.size == 0
    assert sum(tally.unreadable.values()) == 2
    text = " ".join(tally.lines())
    for said in ("4 frames did not come: 5-6, 8-9", "buffer was full: 7", "no position: 0-2", "more than once"):
        assert said in text


def test_ranges() -> None:
    assert ranges([]) == ""
    assert ranges([7, 3, 4, 5, 7]) == "3-5, 7"
