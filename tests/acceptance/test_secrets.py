"""A job with secrets in every place: none of them is in anything that we wrote, said, or show to others."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from peers.faulty_proxy import FaultyProxy
from peers.world import World

KINDS = ("environment", "input", "variable", "script", "helper")
SCRIPT = """
: {script}
. helper.sh
echo on
cronium_set_variable mine "$(cronium_get_variable given)"
cronium_output "$TOKEN"
cp "$CRONIUM_DIR/input.json" "$CRONIUM_OUTPUT_DIR/"
until [ -e /tmp/go ]; do sleep 0.05; done
[ -e /tmp/again ]
"""

Said = Iterator[tuple[str, bytes]]


def files(*folders: Path) -> Said:
    """Every file as raw bytes: journal and its log, spool, places, keys, sockets' folder. Not what the script itself says."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not (path.parent.parent.name == "places" and path.name in {"events", "results"}):
                yield str(path), path.read_bytes()


def processes(world: World) -> Said:
    """What anybody with the same rights reads of our processes."""
    for process in world.processes():
        for name in ("cmdline", "environ", "comm"):
            path = Path(f"/proc/{process.pid}/{name}")
            try:
                yield str(path), path.read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue


def engine(world: World) -> Said:
    """What anybody who may ask the engine hears."""
    for one in world.containers():
        yield "inspect", json.dumps(world.docker.inspect_container(one["Id"])).encode()
        if one["State"] == "running":
            yield "top", json.dumps(world.docker.top(one["Id"], ps_args="-eo pid,args")).encode()
        yield "logs", world.docker.logs(one["Id"], stdout=True, stderr=True)
    yield "list", json.dumps([world.containers(), world.networks()]).encode()


def look(words: Mapping[str, str], *said: Said) -> int:
    """None of the words is in any of it; how much was looked at."""
    looked = [one for some in said for one in some]
    found = [(name, where) for where, text in looked for name, word in words.items() if word.encode() in text]
    assert not found, f"secrets are to be seen: {found}"
    return len(looked)


def test_no_secret_is_anywhere(docker_endpoint: str, runner_images: object) -> None:
    """Promise 6: while it runs, after a crash, between two attempts, after its end, after ours; with debug logs."""
    words = {kind: f"{kind}-{secrets.token_hex(12)}" for kind in KINDS}
    # What the kernel shows as our environment is what we were started with: whoever cares has the token from a file.
    proxy = FaultyProxy()
    environ = {"CRONIUM_MONITORING_LOGGING_LEVEL": "debug"}
    with World(docker_endpoint, environ=environ, proxy=proxy, token_by_file=True) as world:
        words["service token"] = world.queue.token
        token_file = Path(world.queue.settings["token_file"])

        def everything() -> Said:
            yield from files(world.state, world.runtime)
            yield from ((name, text) for name, text in files(world.queue.folder) if name != str(token_file))
            yield "our log", world.log.read_bytes()

        job = world.backend.submit(
            {
                "execution": {
                    "network": "none",
                    "script": {
                        "type": "bash",
                        "content": SCRIPT.format(script=words["script"]),
                        "helpers": [{"name": "helper.sh", "content": f": {words['helper']}\n"}],
                    },
                    "environment": {"TOKEN": words["environment"]},
                    "inputData": {"password": words["input"]},
                    "variables": {"given": words["variable"]},
                    "retryPolicy": {"maxAttempts": 2, "backoffType": "fixed", "backoffDelay": 0.1},
                }
            }
        ).id
        refused = {"script": {"type": "cobol", "content": words["script"]}, "environment": {"A B": words["environment"]}}
        bad = world.backend.submit({"execution": refused}, check=False).id
        for attempt in (1, 2):
            world.until_said(job, "on")
            (container,) = wait_for_container(world, job, attempt)
            words |= {f"lease token {number}": token for number, token in enumerate(lease_tokens(proxy))}
            assert len(words) > len(KINDS) + 1
            assert look(words, everything(), processes(world), engine(world)) > 20
            world.kill()
            look(words, everything(), engine(world))
            world.start()
            touch = ["touch", "/tmp/go", *(["/tmp/again"] if attempt == 2 else [])]
            world.docker.exec_start(world.docker.exec_create(container, touch)["Id"])
        done = world.done(job)
        assert done.job["status"] == "completed", done.report
        assert done.stdout == ["on", "on"]
        assert done.report["scriptOutput"] == words["environment"]  # it did get there, and back
        assert done.report["artifacts"]["variables"] == {"mine": words["variable"]}
        assert world.done(bad).reason == "invalid_job"
        look(words, everything(), processes(world), engine(world))
        world.assert_nothing_left()
        assert world.stop() == 0
        look(words, everything())
        world.start()


def wait_for_container(world: World, job: str, attempt: int) -> list[str]:
    """The running container of that attempt."""
    while True:
        found = [
            one["Id"]
            for one in world.containers()
            if (one["Labels"].get("cronium.job"), one["Labels"].get("cronium.attempt")) == (job, str(attempt))
            and one["State"] == "running"
        ]
        if found:
            return found


def lease_tokens(proxy: FaultyProxy) -> list[str]:
    """All that the backend has given out."""
    leases = [one.answer["lease"] for one in list(proxy.exchanges) if isinstance(one.answer.get("lease"), dict)]
    return sorted({lease["renewalToken"] for lease in leases})


def test_only_who_needs_our_own_secrets_has_them_in_its_memory(docker_endpoint: str, runner_images: object) -> None:
    """Promise 6: token and key go to the streamer alone, though one process forks it and the workers that run others' scripts."""
    key = base64.b64encode(os.urandom(32)).decode()
    with World(docker_endpoint, wait_for_images=False, environ={"CRONIUM_ENCRYPTION_KEY": key}) as world:
        for secret in (world.queue.token.encode(), key.encode()):
            for role in ("streamer", "worker", "forkserver", "monitor"):
                assert world.roles(role), role
                for process in world.roles(role):
                    assert (secret in memory(process.pid)) == (role == "streamer"), role


def memory(pid: int) -> bytes:
    """Everything that a process can write to."""
    found = bytearray()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area, rights, *_, name = [*line.split(), ""][:7]
            start, end = (int(number, 16) for number in area.split("-"))
            if rights.startswith("rw") and not name.startswith("[v"):
                try:
                    file.seek(start)
                    found += file.read(end - start)
                except OSError:  # an area without pages behind it
                    continue
    return bytes(found)
