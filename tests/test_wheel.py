"""What a user installs: the wheel, in an environment of its own, outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from tiny_runs import TINY, curve

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mae_vlm", "data_prep")
SOURCES = {str(file.relative_to(ROOT)) for name in PACKAGES for file in (ROOT / name).rglob("*.py")}


def finished(*command: str | Path, cwd: Path) -> str:
    """What a command says that is started in ``cwd``, which sees neither the repository nor what is set for the tests; it must end well."""
    foreign = ("PYTHON", "MAE_VLM", "PL_", "PYTEST", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {"OMP_NUM_THREADS": "1", "MAE_VLM_CACHE": str(cwd / "cache")}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: the build leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    finished(sys.executable, "-m", "pip", "wheel", *options, "-w", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The ``bin`` of a new environment with the wheel alone in it.

    The packages that it needs are read from the environment of the tests. A path in a .pth adds its packages and not its own .pth
    files, so that an editable installation there stays unseen.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "env", symlinks=True)
    python = folder / "env" / "bin" / "python"
    finished(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    site = Path(finished(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (site / "needed.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return python.parent


def test_every_folder_with_code_is_a_package():
    folders = {(ROOT / name).parent for name in SOURCES}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_the_wheel_holds_every_module_the_default_config_and_the_type_markers(names):
    assert not SOURCES - names
    assert {"mae_vlm/default.yaml", "mae_vlm/py.typed", "data_prep/py.typed"} <= names


def test_the_wheel_holds_nothing_foreign(names):
    (information,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, information}
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_tells_its_licence_its_python_and_its_extras(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (information,) = tmp_path.glob("*.dist-info")
    assert list(information.rglob("LICENSE"))
    told = PathDistribution(information).metadata
    assert told["License-Expression"] == "Apache-2.0" and told["Requires-Python"] == ">=3.11"
    assert {"bands", "s3", "ray", "lora", "onnx", "search"} <= set(told.get_all("Provides-Extra"))


@pytest.mark.parametrize("package", PACKAGES)
def test_what_runs_there_is_the_installed_package(package, installed, tmp_path):
    where = finished(installed / "python", "-c", f"import {package}; print({package}.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent))


def test_fit_runs_there_with_its_embedded_default(installed, tmp_path):
    said = finished(installed / "python", "-m", "mae_vlm", "fit", *TINY, "--trainer.max_steps", "2", cwd=tmp_path)
    assert "run folder:" in said
    assert curve(tmp_path / "runs" / "default" / "version_0", "val/pixels/masked_mse")


def test_data_prep_runs_there(installed, tmp_path):
    from torchvision.io import write_png

    from mae_vlm.data.sources.scenes import Scenes

    (tmp_path / "pictures").mkdir()
    for number in range(3):
        write_png(Scenes(3, (32, 40), seed=1)[number].image, str(tmp_path / "pictures" / f"{number}.png"))
    assert "mean" in finished(installed / "python", "-m", "data_prep", "statistics", "pictures", "--workers", "1", cwd=tmp_path)


def test_the_console_script_is_there(installed, tmp_path):
    from mae_vlm import __version__

    assert finished(installed / "mae_vlm", "--version", cwd=tmp_path).strip() == __version__
    assert "fit" in finished(installed / "mae_vlm", "--help", cwd=tmp_path)
