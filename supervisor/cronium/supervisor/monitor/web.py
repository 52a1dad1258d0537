"""What is served over HTTP: `/health` for whoever restarts or balances, `/metrics` for Prometheus. Room for a page.

Loaded late, only in the monitor. Every answer is made of what the monitor has heard last, in memory: nothing here waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cronium.supervisor.monitor.latest import Latest
from cronium.supervisor.monitor.metrics import registry
from cronium.supervisor.monitor.settings import Page

_UNAVAILABLE = 503
# No connection is kept: a client that asks once a minute would hold one for nothing.
_HEADERS = {"connection": "close", "cache-control": "no-store"}
_Endpoint = Callable[[Request], Awaitable[Response]]


def application(pages: Iterable[Page], latest: Latest) -> Starlette:
    """These pages as an ASGI application; everything else is a 404 that says what there is."""
    pages = tuple(pages)
    known = ", ".join(page.path for page in pages)
    endpoints = {"health": _health(latest), "metrics": _metrics(latest)}

    async def unknown(_request: Request, _error: Exception) -> Response:
        return PlainTextResponse(f"There is nothing here; there is {known}.\n", 404, headers=_HEADERS)

    routes = [Route(page.path, endpoints[page.name], methods=["GET"]) for page in pages]
    return Starlette(routes=routes, exception_handlers={404: unknown})


def _health(latest: Latest) -> _Endpoint:
    async def answer(_request: Request) -> Response:
        report, _ = latest.report()
        status = _UNAVAILABLE if report.status == "unhealthy" else 200
        return Response(report.to_json(), status, headers=_HEADERS, media_type="application/json")

    return answer


def _metrics(latest: Latest) -> _Endpoint:
    collected = registry(latest.report)

    async def answer(_request: Request) -> Response:
        return Response(generate_latest(collected), headers={**_HEADERS, "content-type": CONTENT_TYPE_LATEST})

    return answer
