"""What a report reads and parses grows with the runs and no faster: counted, since seconds depend on the machine."""

import gc
from collections import Counter
from pathlib import Path

import pytest
import yaml

from kdad.engine.finished import find_done
from kdad.engine.run_folder import RunFolder
from kdad.report.__main__ import main
from kdad.results import settings
from kdad.results.read import read_runs
from kdad.settings import compose
from kdad.storage import plain

FEW, MANY = 4, 16


@pytest.fixture(autouse=True)
def _collector_as_it_was():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.fixture
def counted(monkeypatch):
    """Counts of files opened, by name, of YAML texts parsed, and of configurations composed."""
    counts: Counter[str] = Counter()

    def count(owner, name, key):
        plainly = getattr(owner, name)

        def counting(*given, **named):
            counts[key(*given)] += 1
            return plainly(*given, **named)

        monkeypatch.setattr(owner, name, counting)

    count(Path, "open", lambda path, *_: path.name)  # which read_text calls, too
    count(yaml, "load", lambda *given: "yaml" if plain.Loader in given else "of Hydra's own")
    count(compose.hydra, "compose", lambda *_: "composed by Hydra")
    return counts


def write_runs(write_tested, count):
    for number in range(count):
        write_tested(seed=number, changes={"optimizer.lr": 0.001 * (1 + number % 2)})


@pytest.mark.parametrize("count", [FEW, MANY])
def test_a_report_reads_each_file_of_a_run_once(counted, write_tested, tmp_path, capsys, count):
    write_runs(write_tested, count)
    settings._compose.cache_clear()
    counted.clear()
    main([str(tmp_path / "runs")])
    assert "optimizer.lr=0.002" in capsys.readouterr().out
    files = ("results.json", "config.yaml", "scores.csv")
    assert [counted[name] for name in (*files, "yaml")] == [count] * 4
    assert counted["composed by Hydra"] <= 2  # the paper's form and the released one, however many runs there are


def test_searches_for_what_is_done_read_each_result_once(counted, write_tested, tmp_path):
    write_runs(write_tested, MANY)
    counted.clear()
    for _ in range(3):  # as the jobs of a sweep ask
        assert find_done(RunFolder(tmp_path / "new"), "absent", [tmp_path / "runs", tmp_path / "runs"]) is None
    assert counted["results.json"] == MANY and counted["config.yaml"] == counted["yaml"] == 0
    counted.clear()
    of = RunFolder(tmp_path / "runs/3").read_hash()
    counted.clear()
    assert find_done(RunFolder(tmp_path / "new"), of, [tmp_path / "runs"]).path == tmp_path / "runs/3"
    assert counted["results.json"] == 1


def test_a_run_that_comes_or_goes_or_changes_between_two_searches_is_seen(write_tested, tmp_path, monkeypatch):
    write_runs(write_tested, FEW)
    first, other = RunFolder(tmp_path / "runs/0"), RunFolder(tmp_path / "new/maps/7")
    of, text = first.read_hash(), first.results.read_text()
    monkeypatch.chdir(tmp_path)

    def find():
        found = find_done(RunFolder("next"), of, [Path("runs"), Path("new")])
        return found and found.path

    assert find() == Path("runs/0")
    first.results.write_text(text.replace('"ok"', '"failed"'))
    assert find() is None
    other.path.mkdir(parents=True)
    other.results.write_text(text)  # in a folder that is named as a run's maps are, but is in no run
    assert find() == Path("new/maps/7")
    other.results.unlink()
    assert find() is None
    first.results.write_text(text)
    assert find() == Path("runs/0")


@pytest.mark.parametrize("name", ["maps", "checkpoints"])
def test_runs_in_a_folder_called_as_a_runs_own_are_seen(write_tested, tmp_path, name):
    write_runs(write_tested, 1)
    study, run = tmp_path / "study", RunFolder(tmp_path / "runs/0")
    (study / name).mkdir(parents=True)
    (study / "config.yaml").write_text("of: another program")  # nor need what lies beside be kdad's
    of = run.read_hash()
    run.path.rename(study / name / "0")
    assert find_done(RunFolder(tmp_path / "next"), of, [study]).path == study / name / "0"
    assert list(read_runs([study])["folder"]) == [study / name / "0"]
    own = RunFolder(study / name / "0")
    (own.maps / "deep").mkdir(parents=True)
    with own.write(own.maps / "deep/results.json") as file:  # of kdad's own folders none is looked into
        file.write(own.results.read_text())
    assert list(read_runs([study])["folder"]) == [own.path]


def test_the_own_folder_is_looked_at_first(counted, write_tested, tmp_path):
    write_runs(write_tested, MANY)
    mine = RunFolder(tmp_path / "runs/3")
    of = mine.read_hash()
    counted.clear()
    assert find_done(mine, of, [tmp_path / "runs"]).path == mine.path
    assert counted["results.json"] == 1
