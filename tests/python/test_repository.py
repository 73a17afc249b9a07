"""The repository keeps its promises: a whole map, explained dependencies, imports one way."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = {".md", ".py", ".pyi", ".rs", ".toml", ".sh", ".yml", ""}
USERS_OF_CORE = {
    "__init__", "benchmarks", "cache", "checkpoint", "errors", "layers.scores", "layers.linear",
    "store", "weights",
}  # fmt: skip


def tracked() -> list[Path]:
    """Return what git tracks and the disk still has, relative to the root."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    paths = (Path(name) for name in listing.stdout.decode().split("\0") if name)
    return [path for path in paths if (ROOT / path).exists()]


def texts() -> Iterator[tuple[Path, str]]:
    """Yield each tracked text file with what it says."""
    for path in tracked():
        if path.suffix in TEXT and path.name != "LICENSE":
            yield path, (ROOT / path).read_text(encoding="utf-8")


def readme_tree() -> set[str]:
    """Return the paths of the annotated tree in README.md; directories end with a slash."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("## Where everything is", 1)[1].split("```", 2)[1]
    entries: set[str] = set()
    parents: list[str] = []
    for line in block.splitlines()[1:]:
        name = line.split(maxsplit=1)[0] if line.strip() else ""
        if not name:
            continue
        del parents[(len(line) - len(line.lstrip())) // 2 :]
        entries.add("".join(parents) + name)
        if name.endswith("/"):
            parents.append(name)
    return entries


def test_readme_tree_is_complete() -> None:
    wanted: set[str] = set()
    for path in tracked():
        if len(path.parts) > 1:
            wanted.add(f"{path.parts[0]}/")
        for home in ("rust", "python/airllm_rs"):
            if path.is_relative_to(home):
                inner = path.relative_to(home).parts
                if len(inner) > 1:
                    wanted.add(f"{home}/{inner[0]}/")
                elif not (inner[0].startswith("__") or inner[0] == "py.typed"):
                    wanted.add(f"{home}/{inner[0]}")
    assert wanted - readme_tree() == set()


def test_readme_tree_names_nothing_that_is_absent() -> None:
    missing = {entry for entry in readme_tree() if not (ROOT / entry).exists()}
    assert missing == set()


def test_every_python_dependency_says_what_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in (requirement for group in groups for requirement in group):
        [line] = [line for line in text.splitlines() if line.startswith(f'  "{requirement}"')]
        assert "# " in line, f"{requirement} has no comment"


def test_every_crate_says_what_it_is_for() -> None:
    text = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    cargo = tomllib.loads(text)
    tables = [cargo, *cargo.get("target", {}).values()]
    for table in tables:
        for crate in {**table.get("dependencies", {}), **table.get("dev-dependencies", {})}:
            lines = [line for line in text.splitlines() if line.startswith(f"{crate} =")]
            assert lines, f"{crate} is declared over several lines"
            assert all("# " in line for line in lines), f"{crate} has no comment"


def test_every_make_target_is_in_help() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT), "help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    targets = re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE)
    assert targets
    for target in targets:
        assert re.search(rf"^  {target} +\S", shown, re.MULTILINE), f"{target} has no ## comment"


def test_every_todo_names_its_issue() -> None:
    found = [
        f"{path}: {line.strip()}"
        for path, text in texts()
        for line in text.splitlines()
        if re.search(r"\bTOD[O]\b(?!\(#\d+\))", line)
    ]
    assert found == []


def test_no_path_of_one_machine() -> None:
    found = [
        f"{path}: {line.strip()}"
        for path, text in texts()
        for line in text.splitlines()
        if re.search(r"(?<![\w.~])/(work|root|home)/", line)
    ]
    assert found == []


def test_only_the_boundary_imports_the_extension() -> None:
    wrong: list[str] = []
    package = ROOT / "python" / "airllm_rs"
    for path in package.rglob("*.py"):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        if any(module == user or module.startswith(f"{user}.") for user in USERS_OF_CORE):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            if "airllm_rs._core" in names:
                wrong.append(f"{module}, line {node.lineno}")
    assert wrong == []


def test_quick_commands_import_neither_torch_nor_transformers() -> None:
    modules = ["errors", "config", "stats", "checkpoint", "families", "memory", "cli"]
    script = f"""
import importlib, sys
import airllm_rs
for name in {modules}:
    importlib.import_module(f"airllm_rs.{{name}}")
print(*sorted({{"torch", "transformers"}} & sys.modules.keys()))
"""
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == ""
