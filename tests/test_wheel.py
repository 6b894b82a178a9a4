"""What a user installs: the wheel, outside the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel's files, unpacked into an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("mae_vlm", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_default_config_the_type_marker_and_nothing_foreign(installed):
    names = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert {"mae_vlm/default.yaml", "mae_vlm/py.typed", "mae_vlm/__main__.py"} <= names
    assert not [name for name in names if name.startswith(("tests", "tools", "configs", "runs"))]


def test_the_installed_package_runs_its_embedded_default_outside_the_repository(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    where = subprocess.run(
        [sys.executable, "-c", "import mae_vlm; print(mae_vlm.__file__)"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(installed))
    shown = subprocess.run(
        [sys.executable, "-m", "mae_vlm", "fit", "--print_config"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "mae_vlm.objectives.pixels.Pixels" in shown.stdout
