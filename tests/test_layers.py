"""The layers of the repository: imports point down this list only (CONTRIBUTING.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
POLICIES = {"DMPO", "DMPO_ant", "AWAC", "IQL", "mixAWAC", "LP_AWAC"}
LAYERS = [
    {"main_training"},
    {"report", "sweep"},
    {"reports"},
    {"experiment"},
    POLICIES,
    {"utils"},
    {"speed"},
    {"d4rl_tasks"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted(
    path
    for name in RANK
    for path in (
        [ROOT / f"{name}.py"] if (ROOT / f"{name}.py").exists() else ROOT.glob(f"{name}/**/*.py")
    )
)


def layer_of(path):
    """The name of a module's layer: its top-level file or folder."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def is_for_types(node):
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def imports_of(path):
    """The top-level names that a module imports, wherever in it, when it runs."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not is_for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]


def test_every_layer_is_there():
    assert {layer_of(path) for path in MODULES} == set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = layer_of(path)
    for name in set(imports_of(path)) & RANK.keys() - {own}:
        # DMPO_ant is DMPO with a few differences; the other policies know nothing of each other.
        if (own, name) != ("DMPO_ant", "DMPO"):
            assert RANK[name] > RANK[own], f"{own} imports {name}"


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_policies_know_nothing_of_tasks(policy):
    assert "d4rl_tasks" not in set(imports_of(ROOT / f"{policy}.py"))


def test_tasks_know_nothing_of_torch():
    assert not [
        path
        for path in MODULES
        if layer_of(path) == "d4rl_tasks" and "torch" in set(imports_of(path))
    ]
    code = "import d4rl_tasks, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_the_entry_script_is_read_in_one_sitting():
    assert len((ROOT / "main_training.py").read_text().splitlines()) <= 250
