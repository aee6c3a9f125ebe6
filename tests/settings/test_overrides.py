"""Overrides that kdad itself writes are read back by Hydra as they were meant."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from kdad.errors import UserError
from kdad.settings.overrides import TEXTS as KEYS_OF_TEXT
from kdad.settings.overrides import accept_literally, add_missing, find_value, quote, split, write

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
    assert add_missing(["ckpt_path=x"], stored) == stored[:-1]
    assert add_missing(["ckpt_path=x", "seed=2"], stored) == [o for o in stored[:-1] if o != "seed=1"]
    assert add_missing(["model=stpm"], stored) == ["dataset=mvtec", "seed=1", "trainer=ddp", "trainer.max_epochs=3"]
    assert add_missing(["trainer=default"], stored) == [
        "model=rd",
        "model.sigma=2",
        "dataset=mvtec",
        "seed=1",
        "trainer.max_epochs=3",
    ]


NAMES = ["1", "2024", "1e3", "1_000", "[x]", "a,b", "a b", "true", "{x}", "it's", "Prüf,bilder", "range(1,3)", "x=y"]


@pytest.mark.parametrize("text", NAMES)
@pytest.mark.parametrize("key", ["dataset.root", "ckpt_path", "hydra.run.dir"])
def test_a_path_or_a_name_is_what_it_looks_like(key, text):
    (override,), _ = accept_literally([f"{key}={text}"])
    assert OmegaConf.create({"key": OverridesParser.create().parse_override(override).value()}).key == text
    assert find_value([override], key) == text
    assert key in KEYS_OF_TEXT


@pytest.mark.parametrize("written", ["a\\,b", "'a,b'", '"a,b"'])
def test_hydras_own_escapes_still_mean_a_text(written):
    given = [f"ckpt_path={written}"]
    assert accept_literally(given) == (given, []) and find_value(given, "ckpt_path") == "a,b"


def test_a_rule_with_a_comma_needs_no_quotes():
    (override,), _ = accept_literally(["dataset.intensity=window:0,4095"])
    assert OverridesParser.create().parse_override(override).value() == "window:0,4095"


def test_a_sweep_over_them_stays_one():
    given = ["category=grid,screw", "dataset.root=null"]
    assert accept_literally(given, several=True) == (given, [])
    assert accept_literally(given)[0] == ["category='grid,screw'", "dataset.root=null"]


@pytest.mark.parametrize("text", [text for text in NAMES if text[0] != "["])
def test_one_category_is_what_it_looks_like(text):
    (override,), _ = accept_literally([f"category={text}"])
    assert OmegaConf.create({"key": OverridesParser.create().parse_override(override).value()}).key == text


@pytest.mark.parametrize("names", [["brick", "grass"], ["1", "001", "1e3", "true"], ["with blank", "Prüf"]])
def test_several_categories_are_names_whatever_they_look_like(names):
    (override,), _ = accept_literally([f"category=[{','.join(names)}]"])
    assert OmegaConf.create({"key": OverridesParser.create().parse_override(override).value()}).key == names


def test_a_list_is_divided_at_commas_outside_quotes():
    (override,), (remark,) = accept_literally(['dataset.normal=[Prüf,"a,b"]'])
    assert (
        OverridesParser.create().parse_override(override).value() == ["Prüf", "a,b"] and "taken as it stands" in remark
    )


@pytest.mark.parametrize("key", ["dataset.root", "ckpt_path"])
def test_an_empty_variable_is_refused(key):
    with pytest.raises(UserError, match=f"{key}=: empty"):
        accept_literally([f"{key}="])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("model=rd, stpm dataset=demo", '"model=rd,stpm"'),
        ("dataset=demo seed=0, 1, 2", '"seed=0,1,2"'),
        ("levels=[1, 2] model=rd", '"levels=[1,2]"'),
        ("category=grid ,screw", '"category=grid,screw"'),
        ("model= rd", '"model=rd"'),
        ("dataset=folder dataset.root=my new pictures", '"dataset.root=my new pictures"'),
    ],
)
def test_a_blank_that_cut_an_argument_is_named(typed, said):
    """As a shell hands it over: at each blank another argument."""
    with pytest.raises(UserError, match="A blank ends an argument") as error:
        accept_literally(typed.split(), several=True)
    assert str(error.value).endswith(f": {said}")


@pytest.mark.parametrize("typed", [["rd", "mvtec"], ["model=rd", "mvtec"], ["model=rd", ""]])
def test_a_word_that_nothing_was_cut_from_has_no_blank(typed):
    with pytest.raises(UserError, match="not an argument of the form key=value") as error:
        accept_literally(typed)
    assert "blank" not in str(error.value)


@pytest.mark.parametrize("given", ["my key=3", "(x)=3"])
def test_a_key_that_is_no_name_is_refused_behind_another_argument(given):
    with pytest.raises(UserError, match="not an argument of the form"):
        accept_literally(["model=rd", given])
