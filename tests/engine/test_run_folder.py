"""A run's folder: kdad removes and replaces what it has written, and nothing else."""

import json

import pytest
from omegaconf import OmegaConf

from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from kdad.storage.written import MARKER

CFG = OmegaConf.create({"seed": 1})


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MARKER, ".lock"}


def job(folder, fails=None, keep_checkpoints=False, **results):
    """A job as `kdad.run` does it, with a picture, a checkpoint and a variant."""
    with folder.hold(), folder.record(CFG) as record:
        record.add(config_hash="mine", **results)
        folder.claim(CFG, record, keep_checkpoints)
        for path in (folder.maps / "00000_good_0.png", folder.checkpoint("last")):
            with folder.write(path) as file:
                file.write("x")
        with folder.variant("deep").write(folder.variant("deep").scores) as file:
            file.write("x")
        if fails:
            raise fails
    return folder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def test_a_job_replaces_its_own_files_alone(folder):
    job(folder)
    (folder.maps / "mine.png").write_text("mine")
    (folder.variants / "notes.txt").write_text("mine")
    (folder.path / "log").mkdir()
    (folder.path / "log" / "metrics.csv").write_text("of an earlier run")
    (folder.checkpoints / "other.pt").write_text("mine")
    mine = {"maps/mine.png", "variants/notes.txt", "log/metrics.csv", "checkpoints/other.pt"}
    folder.clear()
    assert files(folder.path) == mine
    job(folder)
    folder.clear(keep_checkpoints=True)
    assert files(folder.path) == mine | {"checkpoints/last.ckpt"}
    assert folder.list_written() == [folder.checkpoint("last")]
    folder.clear()
    assert files(folder.path) == mine


@pytest.mark.parametrize("name", ["new\nmine.txt", "new\rmine.txt", "new\x0cmine.txt", "new\x85mine.txt", "new\u2028mine.txt",
                                  "\n/mine.txt", "\\nmine.txt", '"mine.txt"', "a\nb\udcff.txt"])  # fmt: skip
def test_a_file_whose_name_has_line_breaks_is_known_and_no_part_of_it_taken_for_another(folder, name):
    with folder.write(folder.maps / name) as file:
        file.write("x")
    with folder.write(folder.scores) as file:
        file.write("x")
    (folder.path / "mine.txt").write_text("mine")
    assert folder.list_written() == [folder.maps / name, folder.scores]
    folder.written.replace(folder.list_written())
    assert folder.list_written() == [folder.maps / name, folder.scores]
    with folder.written.marker.open("a") as marker:
        marker.write('/"maps/cut by a ki')
    assert folder.list_written() == [folder.maps / name, folder.scores]
    folder.clear()
    assert files(folder.path) == {"mine.txt"}


def test_a_folder_without_strangers_is_left_empty(folder):
    job(folder).clear()
    assert {path.name for path in folder.path.iterdir()} == {MARKER, ".lock"}


@pytest.mark.parametrize(
    "name",
    [
        "results.json",
        "config.yaml",
        "scores.csv",
        "curves.npz",
        "maps/00000_good_0.png",
        "checkpoints/last.ckpt",
        "checkpoints/tested.ckpt",
        "checkpoints/epoch_3.ckpt",
    ],
)
def test_a_strangers_file_in_the_place_of_a_runs_is_refused_and_untouched(folder, name):
    path = folder.path / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=f"{name} was not written by kdad"):
        folder.refuse_to_replace(overwrite=True)
    with pytest.raises(ValueError, match="planned"), folder.record(CFG):
        raise ValueError("planned")
    assert files(folder.path) == {name} and path.read_text() == "mine"
    assert folder.find_free("mine").path.name == "run_2"


def test_a_file_in_the_place_of_a_folder_is_refused(folder):
    folder.path.mkdir()
    folder.maps.write_text("mine")
    with pytest.raises(UserError, match="maps was not written by kdad"):
        folder.refuse_to_replace(overwrite=True)


def test_a_refused_job_leaves_its_reason_and_nothing_of_strangers_is_touched(folder):
    folder.maps.mkdir(parents=True)
    (folder.maps / "street.png").write_text("mine")
    with pytest.raises(UserError), folder.record(CFG):
        raise UserError("no such data")
    assert json.loads(folder.results.read_text())["error"] == "no such data"
    assert (folder.maps / "street.png").read_text() == "mine"


def test_complete_results_are_replaced_only_when_asked(folder):
    job(folder)
    for of, which in (("mine", "this very"), ("another", "another")):
        with pytest.raises(UserError, match=f"complete results of {which} configuration.*overwrite=true"):
            folder.refuse_to_replace(overwrite=False, of=of)
    before = {name: (folder.path / name).read_bytes() for name in files(folder.path)}
    with pytest.raises(UserError), folder.record(CFG):
        folder.refuse_to_replace(overwrite=False, of="another")
    assert {name: (folder.path / name).read_bytes() for name in before} == before
    assert "complete results" in json.loads(folder.refusal.read_text())["error"]
    folder.refuse_to_replace(overwrite=True, of="another")


def test_an_interrupted_training_is_removed_only_when_asked(folder):
    with pytest.raises(KeyboardInterrupt):
        job(folder, fails=KeyboardInterrupt())
    assert folder.read()["error"] == "interrupted" and folder.read()["pro"] is None
    folder.refuse_to_replace(overwrite=False)  # nothing complete
    with pytest.raises(UserError, match=r"interrupted.*ckpt_path=.*last\.ckpt.*overwrite=true"):
        folder.refuse_to_begin_again(overwrite=False)
    before = {name: (folder.path / name).read_bytes() for name in files(folder.path)}
    with pytest.raises(UserError), folder.record(CFG):
        raise UserError("refused")
    assert {name: (folder.path / name).read_bytes() for name in before} == before
    assert json.loads(folder.refusal.read_text())["error"] == "refused"
    folder.refuse_to_begin_again(overwrite=True)
    assert job(folder).is_complete("mine")
    folder.refuse_to_begin_again(overwrite=False)


def test_a_failure_before_the_first_checkpoint_is_replaced(folder):
    with pytest.raises(ValueError, match="planned"), folder.record(CFG) as record:
        folder.claim(CFG, record, keep_checkpoints=False)
        raise ValueError("planned")
    folder.refuse_to_begin_again(overwrite=False)
    assert job(folder).is_complete("mine")


def test_epochs_that_kdad_has_not_written_stay(folder):
    job(folder)
    for number in (1, 2, 3):
        with folder.write(folder.checkpoint(f"epoch_{number}")) as file:
            file.write("x")
    for name in ("epoch_0.ckpt", "epoch_best.ckpt"):
        (folder.checkpoints / name).write_text("mine")
    folder.remove_epochs(up_to=2)
    assert {p.name for p in folder.checkpoints.iterdir()} == {
        "last.ckpt", "epoch_3.ckpt", "epoch_0.ckpt", "epoch_best.ckpt"
    }  # fmt: skip


def test_a_kill_while_the_folder_is_claimed_leaves_it_kdads(folder, monkeypatch):
    """The list of its files is the old one or the new one, and what was being written goes at the next job."""
    job(folder, keep_checkpoints=True)
    (folder.checkpoints / ".last.ckpt.kdad.abcd1234").write_text("half")
    with monkeypatch.context() as patch:
        patch.setattr("kdad.storage.written.atomic_write", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            folder.clear(keep_checkpoints=True)
    assert folder.list_written() == [folder.checkpoint("last")] and not folder.find_foreign()
    folder.clear(keep_checkpoints=True)
    assert files(folder.path) == {"checkpoints/last.ckpt"}


def test_what_fails_after_the_results_leaves_them_whole(folder):
    """A logger at its end, for instance."""
    with pytest.raises(OSError, match="planned"), folder.record(CFG) as record:
        folder.claim(CFG, record, keep_checkpoints=False)
        record.add(pro=0.5)
        record.finish()
        folder.write_results(record.results)
        raise OSError("planned")
    assert folder.read() == {"status": "ok", "pro": 0.5}


def test_the_run_that_a_checkpoint_lies_in(folder, tmp_path):
    job(folder)
    assert RunFolder.around(folder.checkpoint("last")).path == folder.path
    for lone in ("models/last.ckpt", "checkpoints/last.ckpt", "last.ckpt"):
        path = tmp_path / "project" / lone
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(folder.checkpoint("last").read_bytes())
        assert RunFolder.around(path) is None
    assert RunFolder.around(folder.path / "models" / "last.ckpt") is None


def test_a_marker_that_names_files_elsewhere_is_not_believed(folder, tmp_path):
    (tmp_path / "precious").write_text("mine")
    job(folder)
    with (folder.path / MARKER).open("a") as marker:
        marker.write(f"../precious\n{tmp_path / 'precious'}\n\n")
    folder.clear()
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_link_in_the_place_of_a_folder_is_refused_and_not_followed(folder, tmp_path):
    """Who gives a run's folder away could else have files removed where it is run again."""
    job(folder)
    elsewhere = tmp_path / "elsewhere"
    folder.maps.rename(elsewhere)
    (elsewhere / f".{elsewhere.name}.kdad.12345678").touch()
    before = files(elsewhere)
    folder.maps.symlink_to(elsewhere)
    assert not any(path.parent == folder.maps for path in folder.list_written())
    with pytest.raises(UserError, match="maps was not written by kdad"):
        folder.refuse_to_replace(overwrite=True)
    folder.clear()
    assert files(elsewhere) == before and folder.maps.is_symlink()


def test_a_link_in_the_place_of_the_lock_is_refused(folder, tmp_path):
    folder.path.mkdir()
    (folder.path / ".lock").symlink_to(tmp_path / "precious.txt")
    with pytest.raises(UserError, match="lock is a link"), folder.hold():
        raise AssertionError
    assert not (tmp_path / "precious.txt").exists()


def test_files_of_others_that_are_named_as_results_are_no_results(folder):
    folder.path.mkdir()
    for content in ("[1]", "half {", "", "\udcff".encode("utf-8", "surrogateescape")):
        folder.results.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert folder.read() == {} and not folder.is_complete()


def test_a_strangers_copy_beside_a_file_stays(folder):
    """Eight letters behind the name of a file: as a temporary one's end, but not as they are called."""
    job(folder, keep_checkpoints=False)
    (folder.path / ".results.json.original").write_text("mine")
    folder.clear()
    assert (folder.path / ".results.json.original").read_text() == "mine"
