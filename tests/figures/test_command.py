"""`python -m kdad.figures`: files that are the same for the same runs, and errors a user can act on."""

import pytest

from kdad.figures.__main__ import main
from kdad.results.series import find_runs

pytestmark = pytest.mark.slow  # processes of their own, or many seconds


def failing(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("kind", "name"),
    [("histograms", "histograms"), ("curves", "curves"), ("gallery", "gallery_mvtec_grid"), ("bars", "bars_mvtec")],
)
def test_both_files_are_the_same_for_the_same_runs(write_run, tmp_path, capsys, kind, name):
    folder, written = write_run("run"), []
    for out in (tmp_path / "one", tmp_path / "two"):
        main([kind, str(folder), "--out", str(out)])
        assert sorted(path.name for path in out.iterdir()) == [f"{name}.pdf", f"{name}.png"]
        written.append([path.read_bytes() for path in sorted(out.iterdir())])
    assert written[0] == written[1]
    pdf, png = written[0]
    assert pdf.startswith(b"%PDF") and png.startswith(b"\x89PNG")
    assert b"Date" not in pdf and b"atplotlib" not in pdf + png  # neither time nor version
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "one" / f"{name}.png")


def test_one_gallery_for_each_category(write_run, tmp_path):
    main(["gallery", *(str(write_run(c, category=c)) for c in ("grid", "tile")), "--out", str(tmp_path / "out")])
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"gallery_mvtec_grid", "gallery_mvtec_tile"}


def test_a_run_stands_for_itself_alone(write_run):
    run = write_run("run")
    later = write_run("run/evaluations/later", sigma=1)
    assert find_runs([run])["folder"].tolist() == [run.resolve()]
    assert find_runs([later])["folder"].tolist() == [later.resolve()]
    assert len(find_runs([run.parent])) == 2


def test_what_cannot_be_drawn_is_named(write_run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    failed, good = write_run("failed", error="it broke"), write_run("good")
    rd = write_run("rd", "rd")
    for arguments, message in (
        (("curves", tmp_path / "absent"), "absent: no such folder"),
        (("curves", tmp_path / "empty"), "empty; give folders of runs"),
        (("histograms", failed), "failed is failed: it broke"),
        (("bars", good, "--paper", "rd"), "--paper and --table go together"),
        (
            ("bars", good, "--paper", "rd", "--table", "1", "--setting", "128"),
            "none of the runs on mvtec is of model=rd",
        ),
        (("histograms", good, "--bins", "0"), "--bins 0"),
        (("bars", rd, "--paper", "rd", "--table", "1", "--setting", "128", "--metrics", "pro"), "has image_auroc only"),
    ):
        failing(*arguments, "--out", tmp_path / "out")
        assert message in capsys.readouterr().err
    main(["curves", str(failed), str(good), "--out", str(tmp_path / "out")])
    assert "failed is left out: failed: it broke" in capsys.readouterr().err
    (good / "curves.npz").unlink()
    failing("curves", good, "--out", tmp_path / "out")
    assert "good has no curves.npz" in capsys.readouterr().err
    (good / "scores.csv").write_text("path,label\na,0\n")
    failing("histograms", good, "--out", tmp_path / "out")
    assert "scores.csv: no column score" in capsys.readouterr().err
