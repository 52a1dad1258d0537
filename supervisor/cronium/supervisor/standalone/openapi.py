"""The OpenAPI document of the queue, made from its routes and schemas. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from cronium.supervisor.standalone.route import Route
from cronium.supervisor.standalone.schemas import Body

_PATH_PARAMETER = re.compile(r"\{(\w+)\}")
_REFERENCE = "#/components/schemas/{model}"
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "timestamp"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "details": {},
                "timestamp": {"type": "string", "format": "date-time"},
                "traceId": {"type": "string"},
            },
        }
    },
}


def document(routes: Iterable[Route], version: str) -> dict[str, Any]:
    """OpenAPI 3.1 of these routes."""
    routes = tuple(routes)
    bodies: list[type[Body]] = [route.body for route in routes if route.body is not None]
    _, schemas = models_json_schema([(body, "validation") for body in dict.fromkeys(bodies)], ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cronium standalone queue",
            "version": version,
            "description": "Below /api/internal: what an orchestrator uses (contract dialect). Below /api/client: people's "
            "tools. Log lines go over the WebSocket at /api/socket.",
        },
        "servers": [{"url": "/"}],
        "security": [{"serviceToken": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"serviceToken": {"type": "http", "scheme": "bearer"}},
            "schemas": {**schemas.get("$defs", {}), "Error": _ERROR},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__ + ("_client" if "/client/" in route.path else ""),
        "summary": route.summary,
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _named(route.path)),
            *(
                {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
                for name, text in route.parameters
            ),
            *_headers(route),
        ],
        "responses": {
            "2XX": {"description": route.answer, "content": {"application/json": {}}},
            "default": {
                "description": "an error",
                "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model="Error")}}},
            },
        },
    }
    if route.body is not None:
        schema = {"$ref": _REFERENCE.format(model=route.body.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if route.public:
        operation["security"] = []
    return operation


def _named(path: str) -> list[str]:
    return _PATH_PARAMETER.findall(path)


def _headers(route: Route) -> list[dict[str, Any]]:
    names = ["X-Orchestrator-Id"] if "/internal/" in route.path else []
    if route.method != "GET" or route.path.endswith("/queue"):
        names.append("Idempotency-Key")
    return [{"name": name, "in": "header", "schema": {"type": "string", "maxLength": 200}} for name in names]
