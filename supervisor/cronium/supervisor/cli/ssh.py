"""`cronium-supervisor ssh`: which servers are known. `trust` shows a server's keys, and takes them down after a yes."""

from __future__ import annotations

import getpass
import importlib
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from cronium.supervisor.cli.options import USAGE, ConfigOption, fail, load_or_exit

if TYPE_CHECKING:
    from cronium.common.config.model import Config, Ssh
    from cronium.common.servers import Address

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Know the servers that jobs run on.",
    epilog="Example: cronium-supervisor ssh trust web.example:2222",
)
_TRUST = "cronium.worker.ssh.trust"
_TARGET = re.compile(r"(?:(?P<bare>[^\[\]:]+)|\[(?P<bracketed>[^\[\]]+)\])(?::(?P<port>[0-9]{1,5}))?|(?P<six>[0-9A-Fa-f:.]+)")


@app.callback()
def _group() -> None:
    """Know the servers that jobs run on."""


@app.command("trust", epilog="Example: cronium-supervisor ssh trust web.example:2222")
def trust_command(
    target: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="The server, as jobs name it; [ADDRESS]:PORT for IPv6.")],
    yes: Annotated[
        list[str] | None,
        typer.Option(
            "--yes", metavar="FINGERPRINT", help="Do not ask: record the key with this fingerprint (SHA256:…), no other."
        ),
    ] = None,
    jump: Annotated[
        str | None,
        typer.Option(
            "--jump", metavar="USER@HOST[:PORT]", help="The jump host that it is behind (not ssh.proxyJump); '' for none."
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Show a server's keys, and record them after a yes.

    Compare the fingerprints with what the server itself says (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there). They are
    recorded in ssh.knownHostsFile. Ends with 0 when the server is known now, 1 when it is not, 2 when the call is wrong.
    """
    from cronium.common.audit import AuditLog
    from cronium.common.errors import ExecutionError
    from cronium.common.logging import configure_logging

    host, port = _parsed(target)
    loaded = load_or_exit(config, standalone=True)
    ssh = loaded.config.ssh
    gate = _gate(jump, ssh, host, port)
    configure_logging("ssh", "warning", "console")
    path = ssh.known_hosts_path(loaded.config.state_dir)
    trust = importlib.import_module(_TRUST)
    plain = trust.known_hosts(path)
    known = plain if gate is None or str(gate) == ssh.proxy_jump else plain.behind(gate)
    console = Console(stderr=True)
    try:
        with nullcontext() if gate is None else trust.way_through(gate, ssh, plain, AuditLog(loaded.config.audit_dir)) as way:
            keys = trust.fetch_host_keys(host, port, ssh.connection_pool.connect_timeout, way)
        recorded = {(entry.type, entry.blob): entry.line for entry in known.recorded(host, port)}
        _show(console, trust.target(host, port), path, [(key, trust.fingerprint(key)) for key in keys], recorded)
        known.agrees(host, port, *keys)
        new = [key for key in keys if (key.get_name(), key.asbytes()) not in recorded]
        chosen = _chosen(trust, new, keys, yes, path)
        if chosen:
            known.record(host, port, *chosen)
    except ExecutionError as error:
        _tell_audit(loaded.config, host, port, str(error.reason), str(error.details.get("shown", "")))
        fail(error)
    for key in chosen:
        _tell_audit(loaded.config, host, port, "recorded", trust.fingerprint(key))
    done = f"{len(chosen)} of its keys recorded" if chosen else "nothing to record: it is known"
    console.print(f"[green]✓[/green] {escape(trust.target(host, port))}: {done}", highlight=False)


def _chosen(trust: Any, new: list[Any], keys: list[Any], yes: list[str] | None, path: Path) -> list[Any]:
    """Which keys to record: those that were named, or all that are new after a yes."""
    if yes:
        shown = {trust.fingerprint(key): key for key in keys}
        wanted = [_fingerprint(text) for text in yes]
        if missing := [text for text in wanted if text not in shown]:
            step = "ask who runs it; somebody may stand between you and it"
            fail(f"the server has no key with the fingerprint {', '.join(missing)}; nothing was recorded: {step}")
        # Only these: each key was shown by a connection of its own, and somebody may have stood between at another one.
        return [shown[text] for text in dict.fromkeys(wanted) if shown[text] in new]
    if not new:
        return []
    if not sys.stdin.isatty():
        fail("nobody is there to say yes: compare the fingerprints, and give the right one with --yes FINGERPRINT", USAGE)
    if not typer.confirm(f"Record in {path}?", default=False, err=True):
        fail("nothing was recorded: call it again once you know the fingerprints")
    return new


def _show(console: Console, name: str, path: Path, keys: list[tuple[Any, str]], recorded: dict[tuple[str, bytes], int]) -> None:
    console.print(f"{escape(name)} shows these keys:", highlight=False)
    types = {kind for kind, _ in recorded}
    for key, fingerprint in keys:
        line = recorded.get((key.get_name(), key.asbytes()))
        if line is not None:
            state = f"[green]known[/green] ({escape(str(path))} line {line})"
        elif key.get_name() in types:
            state = "[red]not the one that is recorded[/red]"
        else:
            state = "new"
        console.print(f"  {key.get_name():<19}  {fingerprint}  {state}", highlight=False, soft_wrap=True)


def _fingerprint(text: str) -> str:
    """As ssh-keygen shows it, also without its prefix."""
    plain = text.strip().removeprefix("SHA256:").rstrip("=")
    if not re.fullmatch(r"[A-Za-z0-9+/]{43}", plain):
        fail(f"{text!r} is no SHA256 fingerprint: give one as `ssh-keygen -l` shows it, SHA256:…", USAGE)
    return f"SHA256:{plain}"


def _parsed(text: str) -> tuple[str, int]:
    from cronium.common.servers import DEFAULT_PORT, is_host, one_form

    match = _TARGET.fullmatch(text.strip())
    host = (match["bare"] or match["bracketed"] or match["six"] or "") if match else ""
    port = int(match["port"] or DEFAULT_PORT) if match else 0
    if not is_host(host) or not 0 < port < 65536:
        fail(f"{text!r} is no server: give HOST, HOST:PORT or [ADDRESS]:PORT", USAGE)
    return one_form(host), port


def _gate(jump: str | None, ssh: Ssh, host: str, port: int) -> Address | None:
    """The jump host on the way there, as jobs go; none to itself."""
    from cronium.common.servers import parse_jump

    text = ssh.proxy_jump if jump is None else jump
    gate = parse_jump(text) if text else None
    if text and gate is None:
        fail(f"{text!r} is no jump host: give USER@HOST or USER@HOST:PORT", USAGE)
    return None if gate is None or (gate.host, gate.port) == (host, port) else gate


def _tell_audit(config: Config, host: str, port: int, result: str, fingerprint: str) -> None:
    from cronium.common.audit import AuditLog

    AuditLog(config.audit_dir).append(
        "ssh.host_key", server=f"{host}:{port}", result=result, key=fingerprint, by=_who(), command="ssh trust"
    )


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a uid without a name
        return "unknown"
