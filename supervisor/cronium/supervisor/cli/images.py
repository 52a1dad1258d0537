"""`cronium-supervisor images`: build the runner images that are missing, and list what is there.

Shows what the builders tell as events: as progress for people, as one JSON object a line for programs.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, NoReturn

import requests
import typer
from docker.errors import DockerException
from pydantic.alias_generators import to_camel
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from cronium.common.errors import CroniumError
from cronium.common.job import ScriptType
from cronium.supervisor.images.build import build_missing
from cronium.supervisor.images.catalog import Family, reference
from cronium.supervisor.images.engine import EngineUnreachableError, connect, find_endpoint
from cronium.supervisor.images.events import BuildEvent, Built, Chosen, Detail, Retrying, Skipped, Step

app = typer.Typer(
    no_args_is_help=True,
    help="Build and list the images that jobs run in.",
    epilog="Example: cronium-supervisor images build",
)

_MB = 1_000_000  # as `docker images` counts
_DETAIL_WIDTH = 60

Endpoint = Annotated[
    str | None,
    typer.Option(help="The Docker engine; otherwise CRONIUM_DOCKER_HOST, DOCKER_HOST, or what `docker context` says."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


@app.command("build", epilog="Example: cronium-supervisor images build python --from debian")
def build_command(
    scripts: Annotated[list[ScriptType] | None, typer.Argument(help="Which ones; all when none is named.")] = None,
    source: Annotated[
        str, typer.Option("--from", help="auto, alpine (needs an image registry) or debian (needs root and apt).")
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Build also what is there already.")] = False,
    endpoint: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Build the runner images that are missing.

    An image that is there, of either kind, is skipped. 'auto' takes Alpine when the engine reaches its registry, and
    Debian packages otherwise.
    """
    if source not in ("auto", *(family.value for family in Family)):
        raise typer.BadParameter(f"{source!r} is none of auto, alpine, debian.", param_hint="--from")
    events = build_missing(
        endpoint or find_endpoint(),
        scripts or list(ScriptType),
        family=None if source == "auto" else Family(source),
        force=force,
    )
    try:
        if as_json:
            for event in events:
                typer.echo(_json({"event": type(event).__name__.lower(), **asdict(event)}))
        else:
            show(events, Console(stderr=True))
    except CroniumError as error:
        _fail(error)
    finally:
        events.close()


@app.command("list", epilog="Example: cronium-supervisor images list --json")
def list_command(endpoint: Endpoint = None, as_json: AsJson = False) -> None:
    """List the runner images, those that are missing as well."""
    try:
        rows = list(_rows(endpoint or find_endpoint()))
    except CroniumError as error:
        _fail(error)
    if as_json:
        typer.echo(f"[{', '.join(_json(asdict(row)) for row in rows)}]")
        return
    table = Table("image", "size", "id", box=None, header_style="dim")
    for row in rows:
        size = "missing" if row.size_bytes is None else f"{row.size_bytes / _MB:.0f} MB"
        table.add_row(row.reference, size, (row.image_id or "").removeprefix("sha256:")[:12])
    Console().print(table)
    if not any(row.image_id for row in rows):
        typer.echo("Next: cronium-supervisor images build", err=True)


def show(events: Iterator[BuildEvent], console: Console) -> None:
    """Show how building goes: a bar for the image that is being built, a line for each that is done."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[name]}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bars: dict[str, TaskID] = {}
        for event in events:
            match event:
                case Chosen(family, reason):
                    console.print(f"Building runner images from {family} ({escape(reason)})", highlight=False)
                case Skipped(name):
                    console.print(f"[green]✓[/green] {name} is there", highlight=False)
                case Step(name, number, total, text):
                    if name not in bars:
                        bars[name] = progress.add_task("", name=name, total=total)
                    progress.update(bars[name], completed=number, description=escape(text[:_DETAIL_WIDTH]))
                case Detail():
                    pass  # only programs and error messages want every line
                case Retrying(name, reason, delay_s):
                    console.print(f"[yellow]{name}[/yellow]: {escape(reason)}; again in {delay_s:.0f} s", highlight=False)
                case Built(name, _, size_bytes, duration_s):
                    if name in bars:
                        progress.remove_task(bars.pop(name))
                    console.print(f"[green]✓[/green] {name}: {size_bytes / _MB:.0f} MB in {duration_s:.0f} s", highlight=False)


@dataclass(frozen=True, slots=True)
class _Row:
    reference: str
    image_id: str | None
    size_bytes: int | None
    created: str | None


def _rows(endpoint: str) -> Iterator[_Row]:
    client = connect(endpoint)
    try:
        images = {tag: image for image in client.images.list() for tag in image.tags}
        for script in ScriptType:
            for family in Family:
                name = reference(script, family)
                image = images.get(name)
                if image is None:
                    yield _Row(name, None, None, None)
                else:
                    yield _Row(name, str(image.id), int(image.attrs["Size"]), str(image.attrs["Created"]))
    except (DockerException, requests.RequestException) as error:
        raise EngineUnreachableError(f"The engine failed: {error}. Next: see `docker info`.") from error
    finally:
        client.close()


def _json(fields: Mapping[str, object]) -> str:
    return json.dumps({to_camel(name): value for name, value in fields.items()})


def _fail(error: CroniumError) -> NoReturn:
    Console(stderr=True).print(f"[red]✗[/red] {escape(str(error))}", highlight=False)
    raise typer.Exit(1) from error
