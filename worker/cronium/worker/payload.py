"""A job as the launcher's tar stream: the same for every kind of place.

Pure; used in a worker by the executors.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from cronium.common.errors import ExecutionError, Reason
from cronium.common.job import Job, Script, ScriptType
from cronium.worker.launcher import LaunchSpec, launch_stream

INTERPRETERS: Mapping[ScriptType, str] = {ScriptType.BASH: "bash", ScriptType.PYTHON: "python3", ScriptType.NODE: "node"}


def payload(
    job: Job,
    script: Script,
    *,
    attempt: int,
    interpreter: str,
    timeout_s: float,
    grace_s: float,
    max_unread_bytes: int,
    max_results_bytes: int,
) -> bytes:
    """The tar for a launcher's stdin. Raises ExecutionError (invalid_job) for what no launcher can be told."""
    metadata = job.metadata
    event = {
        "jobId": job.id,
        "eventId": metadata.get("eventId"),
        "name": metadata.get("eventName", metadata.get("name")),
        "attempt": attempt,
    }
    try:
        spec = LaunchSpec(
            interpreter=interpreter,
            script=script.content.encode(),
            working_directory=script.working_directory,
            deadline_s=timeout_s,
            grace_s=grace_s,
            max_unread_bytes=max_unread_bytes,
            max_results_bytes=max_results_bytes,
            environment=job.execution.environment,
            helpers={helper.name: helper.content.encode() for helper in script.helpers},
            input_json=orjson.dumps(job.execution.input_data),
            variables_json=orjson.dumps(job.execution.variables),
            event_json=orjson.dumps(event),
        )
    except (ValueError, TypeError) as error:
        raise ExecutionError(Reason.INVALID_JOB, f"the job cannot be handed to a launcher: {error}") from None
    return launch_stream(spec)
