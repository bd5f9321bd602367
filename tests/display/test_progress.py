"""What a training says of its duration at its beginning."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ptycho_ray.display import progress as module
from ptycho_ray.display.progress import TimeLeft, TrainingProgress, first_look, in_words


def follow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], per_step: float, steps: int, members: int = 1
) -> list[str]:
    """The lines after so many steps of a training of 50 epochs of 30 steps."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    followed = TrainingProgress(50, first_look=first_look(50, 1000 * 64 * 64))
    if members > 1:
        followed.on_member(0, members)
    capsys.readouterr()
    for batch in range(1, steps + 1):
        clock.now += per_step
        followed.on_step(SimpleNamespace(epoch=0, batch=batch), {"loss": 1.0}, 30)
    return [line for line in capsys.readouterr().err.splitlines() if line]


def test_a_long_training_says_so_within_a_few_steps(monkeypatch, capsys):
    (line,) = follow(monkeypatch, capsys, 0.8, 12)
    assert line == (
        "about 20 min for 50 epochs (0.8 s a batch); for a first look: --nepochs 5 or "
        "`ptycho-ray reconstruct SCAN` (no network, about 41 s)"
    )
    assert not follow(monkeypatch, capsys, 0.8, 2)  # the first step is slower and does not count
    assert len(follow(monkeypatch, capsys, 8.0, 2)) == 1


def test_a_short_training_offers_nothing_else(monkeypatch, capsys):
    (line,) = follow(monkeypatch, capsys, 0.02, 25)
    assert line == "about 30 s for 50 epochs (0.02 s a batch)"


def test_an_ensemble_counts_all_its_networks(monkeypatch, capsys):
    (line,) = follow(monkeypatch, capsys, 0.8, 12, members=3)
    assert line.startswith("about 60 min for 50 epochs of 3 networks")


def test_words_for_people():
    assert [in_words(seconds) for seconds in (0.2, 59.6, 100, 3600, 7200)] == [
        "1 s",
        "60 s",
        "2 min",
        "60 min",
        "2.0 h",
    ]
    assert first_look(5, 4096 * 1000, notebook=True) == "nepochs=1 or reconstruct(scan) (no network, about 41 s)"
    assert first_look(1, 4096 * 1000).startswith("`ptycho-ray reconstruct")


def test_what_is_left_goes_by_the_pace_since_the_first_look(monkeypatch):
    now = iter((100.0, 110.0, 130.0))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(now)))
    left = TimeLeft()
    assert [left.words(done, 9) for done in (1, 2, 4)] == ["beginning", "70 s left", "50 s left"]
