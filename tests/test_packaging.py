"""What pip installs: the packages, their data, the versions, and the commands the README promises."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hvlite

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOT_PACKAGES = {"tests", "docs", "build", "dist"}


def source_files() -> list[Path]:
    """Every Python file that belongs to the package, relative to the root."""
    found = []
    for folder, subfolders, names in os.walk(ROOT):
        here = Path(folder)
        if here == ROOT:
            subfolders[:] = [name for name in subfolders if name not in NOT_PACKAGES]
        subfolders[:] = [name for name in subfolders if name.isidentifier() and name != "__pycache__"]
        found += [(here / name).relative_to(ROOT) for name in names if name.endswith(".py")]
    return sorted(found)


def package_of(path: Path) -> str:
    return ".".join(("hvlite", *path.parent.parts))


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def requirements() -> list[Requirement]:
    project = PYPROJECT["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def test_every_folder_with_code_is_a_listed_package() -> None:
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted({package_of(path) for path in source_files()})


def test_every_package_but_kernels_has_an_init_file() -> None:
    for package in PYPROJECT["tool"]["setuptools"]["packages"]:
        folder = ROOT.joinpath(*package.split(".")[1:])
        assert (folder / "__init__.py").exists() == (package != "hvlite.kernels"), package


def test_one_version_everywhere() -> None:
    version = PYPROJECT["project"]["version"]
    assert importlib.metadata.version("hvlite") == version
    assert hvlite.__version__ == version


def test_constraints_pin_every_requirement_within_its_range() -> None:
    pinned = pins()
    for requirement in requirements():
        if requirement.name != "hvlite":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_constraints_pin_what_the_requirements_bring() -> None:
    """All the way down, as installed here; but for torch, which brings other packages with each of its builds."""
    pinned, seen = pins(), {"hvlite", "torch"}
    pending = [canonicalize_name(Requirement(line).name) for line in PYPROJECT["project"]["dependencies"]]
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            assert name in pinned, f"constraints.txt lets any version of {name} be installed"
            brought = [Requirement(line) for line in importlib.metadata.requires(name) or ()]
            pending += [canonicalize_name(each.name) for each in brought if applies(each)]
    assert {"contourpy", "pillow", "tzdata"} <= seen


def applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def test_constraints_fit_any_build_of_a_package() -> None:
    assert not [version for version in pins().values() if "+" in version]


def test_running_needs_no_package_for_tests_or_for_a_gpu() -> None:
    needed = {Requirement(line).name for line in PYPROJECT["project"]["dependencies"]}
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert not needed & {Requirement(line).name for line in [*extras["gpu"], *extras["test"]]}


def test_gpu_parts_that_exist_on_linux_only_are_marked() -> None:
    linux_only = {"triton", "sageattention"}
    for requirement in requirements():
        if requirement.name in linux_only:
            assert requirement.marker is not None
            assert not requirement.marker.evaluate({"sys_platform": "darwin"})
            assert requirement.marker.evaluate({"sys_platform": "linux"})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel built from a copy of the sources, so that no build folder is left in the repository."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    data = [path.relative_to(ROOT) for path in (ROOT / "demo" / "weights").rglob("*") if path.is_file()]
    results = [path.relative_to(ROOT) for path in (ROOT / "benchmarks" / "results").glob("*.json")]
    top = [Path(name) for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "py.typed", "constraints.txt")]
    for path in [*source_files(), *data, *results, *top]:
        (tree / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, tree / path)
    (tree / "tests").mkdir()
    shutil.copyfile(__file__, tree / "tests" / "test_packaging.py")
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=tree, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_code_and_nothing_else(wheel: list[str]) -> None:
    code = {name for name in wheel if name.endswith(".py")}
    assert code == {f"hvlite/{path.as_posix()}" for path in source_files()}
    beside = {name for name in wheel if not name.startswith("hvlite-") and name not in code}
    assert all(name == "hvlite/py.typed" or name.startswith(("hvlite/demo/", "hvlite/benchmarks/")) for name in beside)


def test_the_wheel_holds_every_file_of_the_demo_model(wheel: list[str]) -> None:
    weights = [path for path in (ROOT / "demo" / "weights").rglob("*") if path.is_file()]
    assert weights, "demo/weights is empty: `hvlite generate` without --model has nothing to load"
    assert {f"hvlite/{path.relative_to(ROOT).as_posix()}" for path in weights} <= set(wheel)
    assert sum(path.stat().st_size for path in weights) <= 12 * 1024**2


def test_the_wheel_holds_the_licence_the_notice_and_the_command(wheel: list[str]) -> None:
    assert "hvlite/py.typed" in wheel
    assert {Path(name).name for name in wheel if name.startswith("hvlite-")} >= {
        "LICENSE",
        "NOTICE",
        "entry_points.txt",
    }


def test_the_command_is_installed_and_prints_its_version() -> None:
    command = Path(sys.executable).with_name("hvlite")
    shown = subprocess.run([command, "--version"], check=True, capture_output=True, text=True).stdout
    assert PYPROJECT["project"]["version"] in shown


def test_the_readme_s_first_two_commands_and_ci_are_targets_of_the_makefile() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first_two = re.findall(r"^make ([a-z-]+)", readme, flags=re.MULTILINE)[:2]
    assert first_two == ["demo", "test"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(first_two) <= set(targets)
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().endswith("make test")
