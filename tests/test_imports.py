"""The import graph: who may know whom."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "kdad"
# The only ones that know Hydra
ENTRY_POINTS = {"data/check", "run", "evaluate", "cli", "jobs", "configuration", "report", "figures", "benchmark", "pretrain"}
# Layer -> what of kdad it may import, besides errors and atomic files. Entry points may import all.
ALLOWED = {
    "errors": set(),
    "atomic": set(),
    "lock": set(),
    "functional": set(),
    "weights": set(),
    "cache": set(),
    "data": {"cache"},
    "metrics": set(),
    "teacher": {"weights"},
    "networks": {"teacher", "functional"},
    "models": {"networks", "teacher", "functional", "optimizers"},
    "evaluation": {"metrics", "models"},
    "training": set(),
    "features": {"cache", "data", "models"},
    "loggers": set(),
    "objective": set(),
    "optimizers": set(),
    "dashboard": set(),
    "published": set(),
    "machine": set(),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def layers():
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        whole = inside.with_suffix("").as_posix()
        yield path, whole if whole in ENTRY_POINTS else inside.parts[0].removesuffix(".py")


def test_arrows_point_one_way():
    for path, layer in layers():
        if layer in ENTRY_POINTS or layer == "__init__":
            continue
        assert layer in ALLOWED, f"{path}: say in this test what {layer} may import"
        for module in imports(path):
            if module.startswith("kdad."):
                target = module.split(".")[1]
                assert target in ALLOWED[layer] | {layer, "errors", "atomic"}, f"{path} imports {module}"


def test_hydra_is_known_to_entry_points_only():
    for path, layer in layers():
        if layer not in ENTRY_POINTS:
            assert not [m for m in imports(path) if m.split(".")[0] in ("hydra", "omegaconf")], path


def test_files_stay_readable():
    for path, _ in layers():
        assert len(path.read_text().splitlines()) <= 300, f"{path}: one idea, or two?"
