"""What the documents say is true: commands parse, links and paths lead somewhere, the image is as promised."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from hvlite.cli import USAGE_ERROR, app, main

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("demo/*.md")]
DOCUMENTS += [ROOT / "Dockerfile"]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
NAMES = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
ELLIPSIS = ("...", "…")


def commands_of(text: str) -> Iterator[str]:
    """Lines of code blocks and words in backticks that begin with hvlite; a backslash goes on with the next line."""
    whole = text.replace("\\\n", " ")
    pieces = [line for block in FENCE.findall(whole) for line in block.splitlines()]
    pieces += re.findall(r"`([^`\n]+)`", FENCE.sub("", whole))
    for piece in pieces:
        found = re.search(r"(?:^|/)hvlite +([a-z].*)$", piece.strip().removeprefix("$ "))
        if found and found[1].split()[0] in NAMES:
            yield found[1].split("  #")[0].split(" && ")[0].strip()


def all_commands() -> list[Any]:
    return [
        pytest.param(command, id=f"{path.relative_to(ROOT)}: {command[:60]}")
        for path in DOCUMENTS
        for command in dict.fromkeys(commands_of(path.read_text(encoding="utf-8")))
    ]


@pytest.mark.parametrize("command", all_commands())
def test_a_command_of_the_documents_parses(command: str) -> None:
    words = [word for word in shlex.split(command, comments=True) if not word.endswith((*ELLIPSIS, "--help"))]
    group = typer.main.get_command(app)
    subcommand = group.commands[words[0]]  # type: ignore[attr-defined]
    try:
        with subcommand.make_context(f"hvlite {words[0]}", words[1:], resilient_parsing=len(words) == 1):
            pass
    except USAGE_ERROR as error:
        pytest.fail(f"hvlite {command}: {error.format_message()}")


def test_there_are_commands_to_test() -> None:
    assert len(all_commands()) > 30


@pytest.mark.parametrize("command", ['plan --model hunyuan-video-fp8 --gpu "RTX 4070"', "plan --table", "version"])
def test_quick_commands_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_image_has_an_ordinary_user_and_all_that_it_copies() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    steps = [line.split(maxsplit=1) for line in lines]
    assert steps[0][0] == "FROM"
    assert "nvidia/cuda:" in steps[0][1]
    assert [step for step, _ in steps].index("USER") < [step for step, _ in steps].index("COPY")
    assert not [argument for step, argument in steps if step == "USER" and argument in ("root", "0")]
    assert "--privileged" not in text
    assert "constraints.txt" in text
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    needed = ("constraints.txt", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "demo/weights", "cli.py")
    for name in needed:
        assert (ROOT / name).exists(), name
        assert name.split("/")[0] not in ignored


def test_exit_codes_are_those_of_the_errors() -> None:
    from hvlite import errors

    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.HvliteError)]
    codes = {0, *(kind.exit_code for kind in kinds)}
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
    assert {int(code) for code in table} == codes
