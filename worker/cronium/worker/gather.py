"""What a job gave back beside its output, put together from its place's own words: the same for every kind of place.

Used in a worker by the executors, once a place has ended.
"""

from __future__ import annotations

from contextlib import closing

from cronium.common.messages import ResultFile, Results
from cronium.worker.events import Events
from cronium.worker.results import Readable, read_results
from cronium.worker.story import Story


def results_of(story: Story, events: Events, archive: Readable | None, max_bytes: int) -> Results:
    """Everything, with what people should know of it. `archive`: the tar of its output directory, read and closed here."""
    files: tuple[ResultFile, ...] = ()
    lost = (f"some of {one.stream} was lost in its place: {one.reason.replace('_', ' ')}" for one in story.lost)
    problems: list[str] = [*events.problems, *lost]
    if story.results is not None and story.results.too_large:
        problems.append(f"the output files hold more than {max_bytes} bytes: not all came back (container.maxResults)")
    if story.results is not None and story.results.failure is not None:
        problems.append(f"the output files could not be packed: {story.results.failure}")
    if archive is not None:
        with closing(archive):
            files, damages = read_results(archive, max_bytes + 1)
        problems.extend(damages)
    return Results(events.script_output, events.condition, events.variables, files, tuple(problems))
