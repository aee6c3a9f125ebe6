"""Overrides that kdad itself writes are read back by Hydra as they were meant."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from kdad.settings.overrides import complete, find_value, quote, split, write

TEXTS = [
    "plain", "/a/b-c.d", "with blank", "Prüfbilder", "[a]", "a=b", "a,b", "it's", 'say "so"', "~/x", "{a}", "(1)", "a:b",
    "back\\slash", "ends with \\", "a\\'b", "${x}", "$x", "#1", "a;b", "null", "true", "1e3", " led by a blank", "%", "!",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_hydra_reads_what_was_written(text):
    (override,) = OverridesParser.create().parse_overrides([write("key", text)])
    assert OmegaConf.create({"key": override.value()}).key == text
    assert find_value([write("key", text)], "key") == text


def test_the_last_value_counts_and_null_is_none():
    assert find_value(["a=1", "+a=2"], "a") == "2" and find_value(["a=1", "a=null"], "a") == find_value([], "a") == ""
    assert split("+a.b='x=y'") == ("a.b", "'x=y'") and split("~a") == ("a", "")
    assert quote("") == "''"


def test_what_made_a_checkpoint_yields_to_what_is_given():
    stored = [
        "model=rd",
        "model.sigma=2",
        "dataset=mvtec",
        "seed=1",
        "trainer=ddp",
        "trainer.max_epochs=3",
        "skip_done=true",
    ]
    assert complete(["ckpt_path=x"], stored) == stored[:-1]
    assert complete(["ckpt_path=x", "seed=2"], stored) == [o for o in stored[:-1] if o != "seed=1"]
    assert complete(["model=stpm"], stored) == ["dataset=mvtec", "seed=1", "trainer=ddp", "trainer.max_epochs=3"]
    assert complete(["trainer=default"], stored) == [
        "model=rd",
        "model.sigma=2",
        "dataset=mvtec",
        "seed=1",
        "trainer.max_epochs=3",
    ]
