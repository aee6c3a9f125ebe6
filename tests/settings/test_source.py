"""What is read from the source of a class is what its import would tell."""

import inspect
import re
import sys

import pytest
from hydra.utils import get_object

from kdad.settings import targets
from kdad.settings.compose import CONF
from kdad.settings.source import read_constant, read_parameters

NAMED = {t for path in CONF.rglob("*.yaml") for t in re.findall(r"^\s*_target_: ([\w.]+)", path.read_text(), re.M)}
TARGETS = sorted(target for target in NAMED if target.startswith(targets.READ))
# Which pass any further argument on, so that only their import says what they take: anything
ANY = {
    "kdad.engine.outcomes.NoteFolder",
    "pytorch_lightning.loggers.TensorBoardLogger",
    "pytorch_lightning.loggers.WandbLogger",
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_class_takes_what_its_source_says(monkeypatch, target):
    read = read_parameters(target)
    monkeypatch.setattr(targets, "read_parameters", lambda _: None)
    imported = targets.list_parameters(target)
    assert read == imported and (read is None) == (target in ANY)


@pytest.mark.parametrize("target", [target for target in TARGETS if target.startswith(("kdad.data.", "kdad.models."))])
def test_a_class_says_of_itself_what_its_source_says(target):
    found = get_object(target)
    for name in ("layout", "obtain", "default_category", "scoring", "needs_root"):
        assert read_constant(target, name) == getattr(found, name, None)


@pytest.mark.parametrize("target", ["kdad.models.rd.RR", "kdad.nothing.RD", "nothing.at.All", "__main__.X", "RD", ""])
def test_what_is_not_there_tells_nothing(target):
    assert read_parameters(target) is None and read_constant(target, "scoring") is None


MODULE = """
from typing import TYPE_CHECKING, NamedTuple
from dataclasses import dataclass
import other as o
from .other import Odd as Near
if TYPE_CHECKING:
    from other import Far
class Base:
    text: str = "base"
    def __init__(self, a, *, b=1): ...
class Middle(o.Odd, Base):
    number = 1 + 1
class Beside(Near):
    def __init__(self, j, **rest): ...
class Child(Base):
    def __init__(self, c, **rest): ...
class Open(o.Far):
    def __init__(self, d, **rest): ...
class Unknown(o.Absent):
    def __init__(self, e, **rest): ...
@dataclass
class Plain:
    f: int
class Pair(NamedTuple):
    g: int
def make(h, *, i=None): ...
"""
OTHER = "class Far:\n    def __init__(self, far): ...\nclass Odd:\n    text = None\n    def __init__(self, odd): ...\n"


@pytest.mark.parametrize(
    ("name", "names"),
    [("Base", ["a", "b"]), ("Middle", ["odd"]), ("Beside", ["j", "odd"]), ("Child", ["c", "a", "b"]), ("Open", ["d", "far"]), ("Far", ["far"]),
     ("Unknown", None), ("Plain", None), ("Pair", None), ("make", ["h", "i"])],
)  # fmt: skip
def test_parents_and_imports_are_followed_without_an_import(tmp_path, monkeypatch, name, names):
    package = tmp_path / "written"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit")
    (package / "module.py").write_text(
        MODULE.replace("from other", "from written.other").replace("import other", "import written.other")
    )
    (package / "other.py").write_text(OTHER)
    monkeypatch.syspath_prepend(tmp_path)
    assert read_parameters(f"written.module.{name}") == names
    assert read_constant("written.module.Child", "text") == "base"
    assert read_constant("written.module.Middle", "number") == "1 + 1"
    assert "written" not in sys.modules


def test_what_lightning_wraps_is_what_lightning_takes():
    """Its decorator keeps the signature, as the one for a source that is read must."""
    trainer = get_object("pytorch_lightning.Trainer")
    assert read_parameters("pytorch_lightning.Trainer") == list(inspect.signature(trainer).parameters)
