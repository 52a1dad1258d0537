"""Why a job ends on a server other than by its script's own word: each reason with what to do about it, in one place.

Pure. What of it counts beside the place's own word is decided in `outcome`.
"""

from __future__ import annotations

from cronium.common.errors import ExecutionError, Reason
from cronium.common.servers import Server
from cronium.worker.judgement import cancelled_before_start, overtime
from cronium.worker.ssh.commands import RemoteError
from cronium.worker.ssh.watch import BEGIN_S, Watch
from cronium.worker.story import Story

_STEPS = {
    "base_not_ours": "give it to the login alone (0700), or choose another ssh.execution.tempDir",
    "cannot_make": "see its rights, or choose another ssh.execution.tempDir",
    "read_only": "choose another ssh.execution.tempDir",
    "no_space": "make room there",
}


def unreachable(server: Server, why: str) -> ExecutionError:
    """The way there is lost; it may be found again."""
    return ExecutionError(Reason.UNREACHABLE, f"{server.address}: {why}; check the network")


def rebooted(server: Server) -> ExecutionError:
    """Its host was booted since the job was there, or may have been."""
    text = f"{server.name} was rebooted while the job was there: see why (its journal, `last -x`)"
    return ExecutionError(Reason.HOST_REBOOTED, text)


def vanished(server: Server, temp_dir: str, place: str) -> ExecutionError:
    """It had begun, and there is nothing of it."""
    text = (
        f"the job had been started on {server.name}, and its directory is gone: was the server rebooted, or {temp_dir} cleaned?"
    )
    return ExecutionError(Reason.PLACE_VANISHED, text, place=place)


def refused(server: Server, refusal: RemoteError) -> ExecutionError:
    """The place cannot be made, or something else than our command answers."""
    name = server.name
    if refusal.code == "garbage":
        text = f"{name} answers something else than our commands ({refusal.detail}): see the login's shell and what its"
        return ExecutionError(Reason.SSH_PROTOCOL, f"{text} start files print, and ForceCommand in its sshd_config")
    text = f"no place for the job on {name} ({refusal.code.replace('_', ' ')}): {refusal.detail}"
    return ExecutionError(Reason.SERVER_UNSUITABLE, f"{text}; {_STEPS.get(refusal.code, 'see its log')}", server=name)


def given_up(server: Server, watch: Watch, story: Story, timeout_s: float, *, ordered: bool) -> ExecutionError:
    """Why we have made an end of the place. `ordered`: people wanted it."""
    name = server.name
    if watch.endless:
        text = f"{name} has said that the script is over, and sends on and on"
        step = "see what its sshd and the login's shell run, and whether the script writes to its own state file"
        return ExecutionError(Reason.SSH_PROTOCOL, f"{text}: {step}", retryable=False, server=name)
    if watch.stuck and not (ordered and watch.gone):
        text = f"{name} has taken the job, says that the launcher lives, and has not started the script in {BEGIN_S:.0f} s"
        step = "see whether a disk hangs there (`dmesg`, `ps` with processes in state D), and what its sshd runs"
        retryable = None if watch.gone else False  # what could not be ended may start it later
        return ExecutionError(Reason.SSH_PROTOCOL, f"{text}: {step}", retryable=retryable, server=name)
    if watch.late:
        return overtime(timeout_s)
    return ended_from_outside(server, watch, story, ordered=ordered)


def ended_from_outside(server: Server, watch: Watch, story: Story, *, ordered: bool) -> ExecutionError:
    """Its launcher is gone without a last word."""
    if watch.rebooted:
        return rebooted(server)
    if ordered and story.started is None:
        return cancelled_before_start()
    return ExecutionError(
        Reason.PLACE_VANISHED,
        f"the job was ended on {server.name} from outside, or by a script that ends all processes it sees: look who kills "
        "processes there",
    )
