"""What `pip install` makes of the project: as a wheel and editable, each in an environment of its own.

The environments borrow the dependencies of the one that runs the tests, by a path file; the project itself is not in it then,
because path files of a borrowed folder are not followed.
"""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
_TIMEOUT_S = 100
_NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".state", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
)


@dataclass(frozen=True)
class Environment:
    folder: Path

    def pip(self, *arguments: str | Path) -> None:
        python = self.folder / "bin/python"
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "--quiet",
            "--disable-pip-version-check",
            *arguments,
        ]
        subprocess.run(command, check=True, timeout=_TIMEOUT_S)

    def run(self, program: str, *arguments: str, cwd: Path = Path("/")) -> str:
        command: list[str | Path] = [self.folder / "bin" / program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd=cwd, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def new_environment(folder: Path) -> Environment:
    venv.create(folder, with_pip=False, symlinks=True)
    site_packages = next((folder / "lib").glob("python3*")) / "site-packages"
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Environment(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources as a fresh clone has them: what is built beside them does not get in."""
    folder = tmp_path_factory.mktemp("source") / "clone"
    shutil.copytree(ROOT, folder, ignore=_NOT_COPIED, symlinks=True)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        target,
        source,
    ]
    subprocess.run(command, check=True, timeout=_TIMEOUT_S)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = new_environment(tmp_path_factory.mktemp("env") / str(request.param))
    if request.param == "wheel":
        environment.pip("install", "--no-deps", request.getfixturevalue("wheel"))
    else:
        environment.pip("install", "--no-deps", "--no-build-isolation", "--editable", request.getfixturevalue("source"))
    return environment


def test_the_wheel_holds_all_that_is_read_beside_the_code(wheel: Path, source: Path) -> None:
    # Guards: what a checkout finds by its path is also there when nobody has the checkout.
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for image in ("bash", "python", "node"):
            inside = f"cronium/supervisor/images/dockerfiles/{image}-alpine/Dockerfile"
            assert archive.read(inside) == (source / f"etc/images/{image}-alpine/Dockerfile").read_bytes()
        for example in (source / "etc/examples").iterdir():
            assert archive.read(f"cronium/supervisor/cli/examples/{example.name}") == example.read_bytes()
    for root in ("common", "supervisor", "worker"):
        for file in (source / root).rglob("*"):
            if file.suffix in (".py", ".sh", ".js", ".typed") and "egg-info" not in str(file):
                assert file.relative_to(source / root).as_posix() in names


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cronium"}


def test_the_console_script_works(installed: Environment) -> None:
    assert "run" in installed.run("cronium-supervisor", "--help")


def test_the_three_packages_come_from_the_installation_that_was_asked(installed: Environment, source: Path) -> None:
    code = "import cronium.common, cronium.worker, cronium.supervisor as s; print(s.__file__)"
    found = Path(installed.run("python", "-c", code).strip())
    assert found.is_relative_to(installed.folder) or found.is_relative_to(source)


def test_dockerfiles_and_examples_are_found(installed: Environment) -> None:
    code = (
        "from importlib.resources import files; from cronium.supervisor.images import alpine; "
        "print(alpine.registry_image(), (files('cronium.supervisor.cli') / 'examples/hello.sh').is_file())"
    )
    assert installed.run("python", "-c", code).split() == ["alpine:3.22", "True"]


@pytest.mark.parametrize("where", ["elsewhere", "in the repository"])
def test_import_supervisor_is_still_supervisord(installed: Environment, source: Path, where: str) -> None:
    # Guards: the folder `supervisor/` of the repository does not hide the package that runs us in production.
    code = "import supervisor, supervisor.supervisord; print(supervisor.__file__)"
    found = installed.run("python", "-c", code, cwd=source if where == "in the repository" else Path("/"))
    assert found.strip().startswith(sysconfig.get_path("purelib"))
