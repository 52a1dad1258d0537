"""Why an attempt ended: one tree, stable words, the same wherever it is read."""

from __future__ import annotations

import time

import pytest

from cronium.common.errors import CroniumError, ErrorType, ExecutionError, Reason

_FINAL = {
    "invalid_job", "unsupported", "cancelled", "image_missing", "image_auth", "image_unsuitable", "interpreter_missing",
    "auth_failed", "key_invalid", "host_key_unknown", "host_key_changed", "server_unsuitable",
}  # fmt: skip


def test_the_types_are_the_seven_of_the_design() -> None:
    assert {t.value for t in ErrorType} == {"validation", "docker", "ssh", "api", "timeout", "resource", "script"}


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_type_and_says_whether_another_try_may_help(reason: Reason) -> None:
    error = ExecutionError(reason, "what happened: do this")
    assert isinstance(error.type, ErrorType)
    assert error.retryable is (reason.value not in _FINAL)
    assert isinstance(error, CroniumError)
    assert reason.value == reason.name.lower()


def test_a_report_is_plain_data_with_the_reason_in_its_details() -> None:
    before_ms = time.time_ns() // 1_000_000
    report = ExecutionError(Reason.OOM, "it needed more than 64 MB: raise memoryLimit", limit=64, peak=65).report()
    assert (report.type, report.reason, report.retryable) == ("resource", "oom", True)
    assert report.details == {"reason": "oom", "limit": 64, "peak": 65}
    assert before_ms <= report.timestamp_ms <= time.time_ns() // 1_000_000


def test_who_raises_it_may_know_better_whether_to_try_again() -> None:
    assert ExecutionError(Reason.OOM, "m", retryable=False).retryable is False
    assert ExecutionError(Reason.IMAGE_MISSING, "m", retryable=True).retryable is True


def test_the_words_that_programs_compare_are_not_renamed() -> None:
    assert {
        "invalid_job", "unsupported", "script_exit", "signal", "interpreter_missing", "launch_failed", "cancelled", "timeout",
        "oom", "pids", "disk_full", "output_flood", "output_lost", "worker_lost", "place_vanished", "engine_down",
        "engine_error", "image_missing", "image_auth", "image_unsuitable", "pull_failed", "create_failed", "start_failed",
        "unreachable", "auth_failed", "key_invalid", "host_key_unknown", "host_key_changed", "ssh_protocol", "server_unsuitable",
        "host_rebooted", "internal",
    } <= {reason.value for reason in Reason}  # fmt: skip
