"""The command line: help, version, refusals, and paths as they are."""

import errno
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import kdad
from kdad.__main__ import VERBS
from kdad.__main__ import main as kdad_main
from kdad.engine.launch import launch, make_paths_absolute
from kdad.errors import UserError
from kdad.settings.compose import list_choices

pytestmark = pytest.mark.slow  # processes of their own, or many seconds


@pytest.fixture
def say(monkeypatch, capsys, tmp_path):
    """say(main, *arguments) -> (exit status, standard output, standard error)."""

    def call(main, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(sys, "argv", ["kdad", *arguments])
        try:
            status = main()
        except SystemExit as stopped:
            status = stopped.code
        return status or 0, *capsys.readouterr()

    return call


def job(cfg):
    print("folder:", cfg.dataset.root, "category:", cfg.category)


def start():
    launch(job, "run")


def test_help_names_groups_choices_keys_and_examples(say):
    status, out, _ = say(kdad_main, "run", "--help")
    assert status == 0 and "model=rd dataset=mvtec category=screw" in out and "Powered by Hydra" not in out
    for group in ("model", "dataset", "backbone", "logger"):
        assert all(name in out for name in list_choices(group))
    for key in ("seed=", "image_size=", "skip_done=", "overwrite=", "+experiment=", "-m "):
        assert key in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(say, verb):
    status, out, _ = say(kdad_main, verb, "--help")
    assert status == 0 and len(out.splitlines()) > 3


def test_the_verbs_are_listed(say):
    for given in ([], ["--help"], ["-h"]):
        status, out, _ = say(kdad_main, *given)
        assert status == 0 and all(f"  {verb} " in out for verb in VERBS)
    status, _, err = say(kdad_main, "rnu")
    assert status == 2 and "rnu: no such verb" in err and "evaluate" in err


def test_run_without_keys_says_which_it_takes(say, tmp_path):
    for given in (["run"], ["run", "-m"]):
        status, out, err = say(kdad_main, *given)
        assert status == 2 and not out and "kdad run model=rd dataset=demo" in err and "--help" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("kdad r", "run report"),
        ("kdad run mod", "model. model="),
        ("kdad run model=", "model=dskd model=mkd model=rd model=stpm"),
        ("kdad run -m model=rd seed=0,1 dataset=vi", "dataset=visa"),
        ("kdad predict over", "overlays= overwrite="),
        ("kdad model=r", "model=rd"),  # as version 0.1 had it
        ("kdad report out", ""),  # bash goes on with files
        ("kdad rnu mod", ""),
    ],
)
def test_a_shell_completes_verbs_groups_choices_and_keys(say, monkeypatch, line, words):
    monkeypatch.setenv("COMP_LINE", line)
    assert say(kdad_main, "-sc", "query=bash") == (0, f"{words}\n" if words else "", "")


def test_a_shell_is_told_to_complete_kdad(say, monkeypatch):
    monkeypatch.delenv("COMP_LINE", raising=False)
    for given in (["run"], []):
        assert say(kdad_main, *given, "-sc", "install=bash")[1].endswith("-F hydra_bash_completion kdad\n")


def test_modules_of_ones_own_are_found_in_the_current_folder(say, tmp_path):
    """As `python -m kdad.run` finds them."""
    (tmp_path / "of_ones_own.py").write_text("")
    assert find_spec("of_ones_own") is None
    say(kdad_main, "--version")
    assert find_spec("of_ones_own").origin == str(tmp_path / "of_ones_own.py")


def test_the_version_is_kdads(say):
    for given in (["--version"], ["run", "--version"]):
        assert say(kdad_main, *given)[1] == f"kdad {kdad.__version__}\n"


@pytest.mark.parametrize("folder", ["Prüfbilder", "Data (2)", "lr=0.1", "a#b", "it's", "with blank", "a[1]"])
def test_a_folder_is_taken_as_it_is_written(say, tmp_path, folder):
    status, out, err = say(start, "model=rd", "dataset=mvtec", f"dataset.root={folder}", "category=one")
    assert status == 0, err
    assert f"folder: {tmp_path / folder} category: one" in out


def test_what_was_taken_literally_is_said_with_the_quotes_that_work(say, tmp_path):
    _, out, err = say(start, "dataset=mvtec", "dataset.root=Prüfbilder", "category=one")
    assert "dataset.root='Prüfbilder'" in err and "Quoted" in err
    status, again, err = say(start, "dataset=mvtec", "dataset.root='Prüfbilder'", "category=one")
    assert status == 0 and again == out and "Quoted" not in err


def test_a_home_folder_is_found(say, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert f"folder: {tmp_path / 'home' / 'pictures'}" in say(start, "dataset=mvtec", "dataset.root=~/pictures")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rd", "mvtec"], "rd: not an argument of the form key=value"),
        (["modle=rd"], "modle: no such key. Nearest: model"),
        (["dataset=folder", "dataset.anomaly=x"], "dataset.anomalous"),
        (["model=null"], "model=null: give one of"),
        (["model=rdd"], "model=rdd: no such choice. Nearest: rd"),
        (["lr=0.1"], "lr: no such key. Nearest: optimizer.lr"),
        (["trainer.callbacks=[a]"], "kdad sets this argument of pytorch_lightning.Trainer itself; patience= ends"),
        (["trainer.logger=false"], "kdad sets this argument of pytorch_lightning.Trainer itself; give logger="),
        (["optimizer.weight_decay=1e-4"], "not set yet, add it by a leading +: +optimizer.weight_decay=..."),
        (["trainer.max_epoch=3"], "Nearest: trainer.max_epochs"),
        (["ckpt_path=nowhere.ckpt"], "no such file"),
    ],
)
def test_refusals_are_sentences(say, arguments, message):
    status, _, err = say(start, *arguments)
    assert status == 2 and message in err and "Traceback" not in err and "Lexer" not in err


@pytest.mark.parametrize("key", ["metrics.max_fpr", "model.max_fpr", "cache.size"])
def test_what_nothing_takes_is_not_said_to_be_addable(say, key):
    status, _, err = say(start, f"{key}=0.3")
    assert status == 2 and f"{key}: no such key. Nearest: " in err and "+" not in err


def test_a_nearest_name_is_named_once(say):
    said = say(start, "modle=rd")[2].split("Nearest: ")[1].strip().split(", ")
    assert len(said) == len(set(said))


def test_overrides_stand_on_either_side_of_a_flag(say, tmp_path):
    status, out, err = say(start, "dataset=mvtec", "-m", "category=one,two", "hydra.sweep.dir=sweep")
    assert status == 0, err
    assert out.count("category:") == 2


def test_an_output_folder_that_cannot_be_is_a_sentence(say, tmp_path):
    (tmp_path / "file").write_text("x")
    status, _, err = say(start, "hydra.run.dir=file/run")
    assert status == 2 and "hydra.run.dir" in err and "Traceback" not in err


def test_paths_are_kept_in_full(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg = OmegaConf.create(
        {"dataset": {"root": "data"}, "backbone": {"weights": "package:a/b.pth"}, "ckpt_path": None, "seed": 0}
    )
    make_paths_absolute(cfg)
    assert cfg.dataset.root == str(tmp_path / "data") and cfg.backbone.weights == "package:a/b.pth"
    assert cfg.ckpt_path is None


def test_a_sweep_whose_folder_can_no_longer_be_written_ends_with_one_message(say, monkeypatch):
    """As on a disk that turns read-only while the first job runs: Hydra cannot make the second one's folder."""
    make = Path.mkdir

    def refuse(path, *given, **named):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def fail(cfg):
        monkeypatch.setattr(Path, "mkdir", refuse)
        raise UserError("the first job's own")

    status, _, err = say(lambda: launch(fail, "run"), "-m", "seed=1,2", "hydra.sweep.dir=swept")
    monkeypatch.setattr(Path, "mkdir", make)
    assert status == 2 and "Traceback" not in err and "the first job's own" in err
    assert "1 of the sweep's jobs failed" in err and "cannot be written: Read-only file system" in err
