"""What the queue to the streamer does not take stays with the sender, in its order, and is due again."""

from __future__ import annotations

from cronium.common.messages import Batch, Position, Said
from cronium.worker.lines import EncodedBatch
from cronium.worker.sender import Sender


def test_batches_that_found_no_room_are_due_again_in_order() -> None:
    sender = Sender("job", "worker-1", 1, 1, 1 << 20)
    sender.start(0.0, fresh=True)
    for first in (1, 2, 3):
        sender.take(EncodedBatch(first, 1, b"[{}]", Position(first + 1)))
    due = sender.due(0.0)
    assert [m.first_sequence for m in due if isinstance(m, Batch)] == [1, 2, 3]
    sender.not_taken(due[1:], 0.0)
    assert sender.due(0.001) == []
    wake = sender.wake_at_s()
    assert wake is not None
    again = sender.due(wake)
    assert [m.first_sequence for m in again if isinstance(m, Batch)] == [2, 3]
    sender.hear(Said("job", "worker-1", 1, 1, 1, Position(4), Position(4), 100, 1 << 20), 1.0)
    assert sender.idle()
