"""How many deaths are too many, and how long is waited before a new start."""

from __future__ import annotations

from cronium.supervisor.core.intensity import Intensity, longest_pause_s, restart_pause_s, young_deaths


def test_more_than_the_allowed_deaths_within_the_period_are_too_many() -> None:
    intensity = Intensity(3, 10.0)
    assert [intensity.died("streamer", "SIGKILL", 100.0 + n) for n in range(3)] == [None] * 3
    reason = intensity.died("streamer", "exited with 1", 103.0)
    assert reason is not None
    for part in ("4 processes", "'streamer'", "3.0 s", "exited with 1", "restartIntensity"):
        assert part in reason


def test_deaths_that_lie_apart_are_allowed_for_ever() -> None:
    intensity = Intensity(3, 10.0)
    assert all(intensity.died("worker", "x", 100.0 + 4 * n) is None for n in range(100))


def test_kinds_are_counted_by_themselves() -> None:
    intensity = Intensity(1, 10.0)
    assert intensity.died("streamer", "x", 1.0) is None
    assert intensity.died("monitor", "x", 1.0) is None
    assert intensity.died("streamer", "x", 2.0)


def test_the_first_death_is_followed_by_a_start_at_once_and_a_crash_loop_by_growing_pauses() -> None:
    pauses = [restart_pause_s(young, 1, 60.0) for young in range(12)]
    assert pauses[:4] == [0.0, 0.0, 0.4, 0.8]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10.0


def test_one_that_has_lived_for_a_while_is_no_crash_loop() -> None:
    assert young_deaths(5, 60.0) == 0
    assert young_deaths(5, 0.1) == 6


def test_a_crash_loop_exceeds_the_intensity_whatever_it_is() -> None:
    """With longer pauses it would go on for ever, and nobody above would be told."""
    for most, period_s in ((1, 1.0), (3, 60.0), (20, 60.0), (1000, 60.0)):
        intensity, now_s, young, reason = Intensity(most, period_s), 0.0, 0, None
        while reason is None:
            assert young <= most + 1, (most, period_s)
            young = young_deaths(young, 0.0)
            reason = intensity.died("streamer", "x", now_s)
            now_s += restart_pause_s(young, most, period_s)


def test_without_a_limit_the_pauses_are_as_long_as_can_be() -> None:
    assert longest_pause_s(30.0, 1_000_000, float("inf")) == 30.0
