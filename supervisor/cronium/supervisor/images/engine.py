"""The way to a Docker engine for the command line: where it is, and a client with a deadline on every call.

Runs in the command line's process. It starts no engine; that is what `bin/engine` is for.
"""

import os
from collections.abc import Mapping

import requests
from docker import DockerClient
from docker.context import ContextAPI
from docker.errors import DockerException

from cronium.common.errors import CroniumError

DEFAULT_ENDPOINT = "unix:///var/run/docker.sock"
_CALL_TIMEOUT_S = 120  # importing an image or committing a layer is one call


class EngineUnreachableError(CroniumError):
    """No engine answers at an endpoint. The message ends with what to do next."""


def find_endpoint(environment: Mapping[str, str] = os.environ) -> str:
    """Say where the engine is: CRONIUM_DOCKER_HOST, DOCKER_HOST, what `docker context` has chosen, the usual socket."""
    for name in ("CRONIUM_DOCKER_HOST", "DOCKER_HOST"):
        if environment.get(name):
            return environment[name]
    context = ContextAPI.get_current_context()
    host = context.Host if context is not None else None
    return str(host or DEFAULT_ENDPOINT)


def connect(endpoint: str, *, timeout_s: int = _CALL_TIMEOUT_S) -> DockerClient:
    """Connect to an engine that answers. Raises EngineUnreachableError."""
    try:
        client = DockerClient(base_url=endpoint, timeout=timeout_s)
        client.ping()
    except (DockerException, requests.RequestException) as error:
        raise EngineUnreachableError(
            f"No Docker engine answers at {endpoint} ({error}). Next: start it, or give another one with `--endpoint` or "
            "CRONIUM_DOCKER_HOST; `bin/engine` finds or installs one."
        ) from error
    return client
