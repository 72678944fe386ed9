"""What an import may load: nothing heavy for the command line, nothing optional, and our kernels only for ourselves."""

from __future__ import annotations

import ast
import importlib.machinery
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
HEAVY = ("torch", "transformers", "diffusers", "triton", "av", "safetensors", "matplotlib", "PIL")
OPTIONAL = ("bitsandbytes", "diffusers", "sageattention", "torchao", "triton")
# A user's first error in a shell in the clone would be one of these two lines.
USE_BOTH = "from transformers import LlamaModel; import hvlite.kernels.ops; import sys; sys.exit(LlamaModel is None)"


def folder_of(package: str) -> Path:
    return ROOT.joinpath(*package.split(".")[1:])


def python_files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted(folder_of(package).glob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("hvlite", *(part for part in parts if part != "__init__")))


def run_python(*arguments: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    """Python in a fresh process whose working directory, and so sys.path, is the repository root."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def test_our_kernels_folder_is_no_regular_package() -> None:
    spec = importlib.machinery.PathFinder.find_spec("kernels", [str(ROOT)])
    assert spec is not None
    assert spec.origin is None, "a kernels/__init__.py would answer transformers' probe for Hugging Face's package"


@pytest.mark.slow
def test_python_from_the_repository_root_loads_transformers_and_our_kernels() -> None:
    done = run_python("-c", USE_BOTH)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_pytest_as_a_module_from_the_repository_root_loads_both(tmp_path: Path) -> None:
    case = tmp_path / "test_both.py"
    case.write_text(f"def test_both():\n    {USE_BOTH.rsplit(';', 1)[0]}\n", encoding="utf-8")
    done = run_python("-m", "pytest", "-q", "-c", "pyproject.toml", "-o", f"cache_dir={tmp_path}", str(case))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "module", ["hvlite", "hvlite.errors", "hvlite.files", "hvlite.lite.config", "hvlite.lite.card", "hvlite.cli"]
)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    show = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = run_python("-c", show)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


IMPORT_WITHOUT_OPTIONAL_PARTS = """
import builtins, importlib, sys
blocked, modules = set(sys.argv[1].split(",")), sys.argv[2].split(",")
real_import = builtins.__import__

def without_optional(name, globals=None, locals=None, fromlist=(), level=0):
    ours = ((globals or {}).get("__name__") or "").startswith("hvlite")
    if ours and level == 0 and name.split(".")[0] in blocked:
        raise ModuleNotFoundError(f"{globals['__name__']} imports {name} at module level", name=name)
    return real_import(name, globals, locals, fromlist, level)

builtins.__import__ = without_optional
for module in modules:
    importlib.import_module(module)
"""


@pytest.mark.slow
def test_every_module_loads_without_the_optional_packages() -> None:
    """Triton's kernels may import Triton; everything else, and the way to the ops, must do without."""
    entries = {"hvlite.kernels.ops", "hvlite.kernels.reference"}
    names = {module_name(path) for path in python_files() if path.stem != "__main__"}
    wanted = sorted(name for name in names if not name.startswith("hvlite.kernels") or name in entries)
    done = run_python("-c", IMPORT_WITHOUT_OPTIONAL_PARTS, ",".join(OPTIONAL), ",".join(wanted))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", python_files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_inside_the_package_are_relative(path: Path) -> None:
    """An absolute one would find the installed hvlite, which need not be this one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        assert not [name for name in names if name.split(".")[0] == "hvlite"], f"line {getattr(node, 'lineno', 0)}"
