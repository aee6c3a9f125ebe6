"""The house: which rooms there are, who may know whom, and who may name a run's files."""

import ast
import re
from pathlib import Path

import pytest

from kdad.__main__ import PACKAGES, VERBS

PACKAGE = Path(__file__).parents[1] / "kdad"
# Commands may import any room; no room imports a command.
COMMANDS = {f"{verb}.py" for verb in VERBS} | {f"{name}/__main__.py" for name in PACKAGES} | {"data/check.py"}
GROUND = {"errors", "storage", "geometry"}  # what every room may import besides those listed with it
ROOMS = {
    "__init__": {"inference"},  # when it is asked for, see tests/inference
    "__main__": set(),
    "errors": set(),
    "storage": set(),
    "geometry": set(),
    "functional": set(),
    "speed": set(),
    "published": set(),
    "settings": set(),
    "metrics": set(),
    "teacher": set(),
    "data": set(),
    "networks": {"teacher", "functional", "speed"},
    "models": {"networks", "teacher", "functional", "speed"},
    "inference": {"models", "teacher", "data", "speed", "settings"},  # of settings the table of keys, see below
    "engine": {"inference", "models", "teacher", "data", "metrics", "settings", "speed"},
    "predict": {"inference", "engine", "data", "settings"},
    "calibrate": {"inference", "engine", "data", "settings"},
    "export": {"inference", "engine", "models", "teacher", "data", "settings"},
    "app": {"inference", "engine", "data", "settings"},
    "benchmark": {"inference", "engine", "export", "models", "published", "settings", "speed"},
    "results": {"engine", "settings", "published", "metrics"},
    "report": {"results", "published"},
    "figures": {"results", "published", "metrics", "engine", "models", "data"},
    "page": {"report", "figures", "results", "published", "settings"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
# What a run leaves, and how it is asked for: by `RunFolder` and `Checkpoint`
NAMES = r"""["'](?:\w+/)*(?:results\.json|refused\.json|config\.yaml|scores\.csv|curves\.npz|\w*\.ckpt)["']"""
OWNERS = {"engine/run_folder.py", "engine/checkpoint.py", "inference/files.py"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def import_names(path: Path) -> set[str]:
    """Every module, and every name in one, that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide arrows"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imports(path: Path) -> set[str]:
    """The rooms of kdad that a file imports, and whether it imports Hydra and the like."""
    found = import_names(path)
    return {name.split(".")[1] for name in found if name.startswith("kdad.") and name.split(".")[1] in ROOMS} | {
        name.split(".")[0] for name in found if name.split(".")[0] in ("hydra", "omegaconf", "pytorch_lightning")
    }


def is_command(path: Path) -> bool:
    return path.relative_to(PACKAGE).as_posix() in COMMANDS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_arrows_point_one_way(path):
    if is_command(path):
        return
    room = room_of(path)
    assert room in ROOMS, f"say in this test what {room} may import"
    names = {f"kdad.{place.removesuffix('.py').replace('/', '.')}" for place in COMMANDS} - {f"kdad.{room}"}
    assert not names & import_names(path), f"{path} imports a command"
    strangers = (imports(path) & ROOMS.keys()) - ROOMS[room] - GROUND - {room}
    assert not strangers, f"{path} imports {strangers}"


def test_rooms_have_no_circle():
    """Each room's own list leads down only."""
    done: set[str] = set()
    while len(done) < len(ROOMS):
        free = {room for room, below in ROOMS.items() if room not in done and below <= done}
        assert free, f"a circle among {ROOMS.keys() - done}"
        done |= free


@pytest.mark.parametrize("room", ["functional", "teacher", "networks", "models", "data", "metrics", "storage", "speed"])
def test_papers_and_data_know_no_hydra(room):
    for path in FILES:
        if room_of(path) == room and not is_command(path):
            assert not imports(path) & {"hydra", "omegaconf"}, path


def test_a_trained_detector_needs_neither_hydra_nor_a_trainer():
    for path in FILES:
        if room_of(path) == "inference" or path == PACKAGE / "settings/keys.py":
            assert not imports(path) & {"hydra", "pytorch_lightning"}, path


def test_no_file_of_a_room_imports_another_of_it_in_a_circle():
    modules = {".".join(("kdad", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    below = {}
    for name, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        below[name] = {other for other in found if other in modules}
    below["kdad.__init__"].clear()  # what it gives is imported when it is asked for
    done: set[str] = set()
    while len(done) < len(modules):
        free = {name for name in modules if name not in done and below[name] <= done}
        assert free, f"a circle among {sorted(modules.keys() - done)}"
        done |= free


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_run_folder_and_the_checkpoint_name_what_a_run_leaves(path):
    if path.relative_to(PACKAGE).as_posix() in OWNERS:
        return
    code = ast.unparse(ast.parse(path.read_text()))  # without comments
    assert not re.search(NAMES, code)
    assert path.name == "tensors.py" or "torch.load" not in code


def test_the_root_is_a_dozen_files():
    assert len(list(PACKAGE.glob("*.py"))) <= 12


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_files_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 300, "one idea, or two?"
