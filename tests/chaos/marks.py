"""Marks that jobs in containers leave outside of their place: what counts runs must not go away with the place of a run.

The product mounts nothing of that kind, so the driver's engine does it beneath it, by an OCI runtime of its own: runc, with one
folder more in every container. A place that is removed before anybody has read its output leaves its mark all the same.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

IN_CONTAINER = "/mnt"  # there in every image
_NAME = "marked"
_RUNTIME = """#!{python} -IS
import json, os, sys
words = sys.argv[1:]
if "create" in words:
    path = os.path.join(words[words.index("--bundle") + 1], "config.json")
    with open(path) as file:
        config = json.load(file)
    config["mounts"].append({{"destination": {target!r}, "type": "bind", "source": {source!r}, "options": ["bind", "rw"]}})
    with open(path, "w") as file:
        json.dump(config, file)
os.execv({runc!r}, ["runc", *words])
"""


def make_marks(folder: Path) -> tuple[str, ...]:
    """Have this folder in every container; the arguments of dockerd for that."""
    folder.mkdir()
    folder.chmod(0o777)
    runc = shutil.which("runc")
    assert runc is not None, "dockerd comes with one"
    runtime = folder.with_suffix(".runtime")
    runtime.write_text(_RUNTIME.format(python=sys.executable, target=IN_CONTAINER, source=str(folder), runc=runc))
    runtime.chmod(0o755)
    return f"--add-runtime={_NAME}={runtime}", f"--default-runtime={_NAME}"
