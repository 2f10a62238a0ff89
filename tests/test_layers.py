"""Imports point down only: pipelines, manifests, builders, schemas. Heavy packages are imported by one file each."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("schemas", "builders", "manifests", "pipelines")
ONLY = {"ray": {"pipelines/cluster.py"}, "torch": {"manifests/dataset.py"}, "obstore": {"builders/storage.py"}}


def imports(file: Path) -> set[str]:
    """Everything a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module or "")
    return names


def files(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_itself_and_what_is_below(layer):
    below = LAYERS[: LAYERS.index(layer) + 1]
    for file in files(layer):
        for name in imports(file):
            if name.startswith("tarsia."):
                assert name.split(".")[1] in below, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", ONLY)
def test_a_heavy_package_is_imported_by_one_file(package):
    found = {
        str(file.relative_to(ROOT))
        for layer in LAYERS
        for file in files(layer)
        if any(name.split(".")[0] == package for name in imports(file))
    }
    assert found == ONLY[package]


def test_schemas_need_nothing_but_values_tables_and_hashes():
    allowed = {"pydantic", "pyarrow", "numpy", "orjson", "xxhash", "blake3", "tarsia"} | sys.stdlib_module_names
    outside = {
        (file.name, name) for file in files("schemas") for name in imports(file) if name.split(".")[0] not in allowed
    }
    assert outside == set()


@pytest.mark.parametrize("module", ["tarsia.pipelines.cli", "tarsia.pipelines.demo", "tarsia.manifests.stream"])
def test_the_core_imports_without_torch_ray_or_datasets(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'ray', 'datasets', 'numba', 'pandas'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
