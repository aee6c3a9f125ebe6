"""The experiments: what their headers say is what they do, and they fill the printed tables."""

import json
import re
from functools import cache

import hydra
import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from kdad import published
from kdad.engine import retest
from kdad.engine.build import build, build_detector
from kdad.engine.retest import list_variants
from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from kdad.settings.checks import check_configuration, list_scoring_keys
from kdad.settings.compose import CONF, choose_optional, list_choices, resolve
from kdad.settings.roles import config_hash
from tests.layouts import mvtec3d, pictures, save
from tests.one_class import WRITERS

EXPERIMENTS = [name for name in list_choices("experiment") if not name.startswith("studies/")]  # see test_studies
TABLES = [name for name in EXPERIMENTS if "/" in name]
MVTEC = "bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush transistor wood zipper"


def compose(*overrides, **keywords):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("run", choose_optional(list(overrides)), **keywords)


@cache
def sweep(name, *overrides):
    """What the command line of a sweep composes to."""
    return compose(f"+experiment={name}", *overrides, return_hydra_config=True)


@cache
def jobs(name, *overrides):
    """The overrides of each job, as Hydra's sweeper makes them of the experiment's parameters."""
    swept = sweep(name, *overrides).hydra.sweeper.params
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in swept.items()])
    return BasicSweeper.split_arguments(parsed, None)[0]


@cache
def settings(name):
    """One job of each setting and data set, resolved: all seeds and categories but the first are left out."""
    found = {}
    for job in jobs(name):
        key = tuple(o for o in job if not o.startswith(("category=", "seed=")))
        if key not in found:
            found[key] = compose(f"+experiment={name}", *job)
    return list(found.values())


def header(name):
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    return "\n".join(line for line in lines[1:] if line.startswith("#"))


def test_every_table_asked_for_is_there():
    wanted = {
        "rd": "table1 table2 table4 table5 table6 table7",
        "mkd": "table1 table2 table3 table4 table5 table6 figure3 figure4 figure5",
        "stpm": "table1 table2 table3 table4 table5",
        "dskd": "table1 table2 table3 table4 table5 table7 table8 table9",
    }
    assert set(TABLES) == {f"{paper}/{table}" for paper, tables in wanted.items() for table in tables.split()}
    assert set(EXPERIMENTS) - set(TABLES) == {"all_categories"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_header_says_what_it_does(name):
    text = header(name)
    assert text.startswith(f"# python -m kdad.run -m +experiment={name}\n# ")
    stated, factors = re.search(r"^# Jobs: (\d+) = (.+)$", text, re.M).groups()
    assert int(stated) == len(jobs(name))
    numbers = [int(n) for n in re.findall(r"(?:^|x )(\d+) ", factors.split(",")[0])]
    assert int(stated) == torch.tensor(numbers).prod() * (2 if "with and without" in factors else 1)
    for part in ("Cost", "Smaller"):
        assert re.search(rf"^# {part}: ", text, re.M)
    if name in TABLES:
        paper, table = name.split("/")
        author = {"rd": "Deng and Li", "mkd": "Salehi et al.", "stpm": "Wang et al.", "dskd": "Yao"}[paper]
        printed = re.sub(r"table(\d)", r"Table \1", table).replace("figure", "Fig. ")
        assert f"# {author}, {printed}, Sec. " in text


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_composes(name):
    for cfg in settings(name):
        check_configuration(cfg, "run")
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        list_variants(cfg, RunFolder(CONF))
        assert cfg.model.name == name.split("/")[0] or name == "all_categories"


@pytest.mark.parametrize("name", TABLES)
def test_it_fills_the_printed_table(name):
    """Each setting of the paper's own method is what exactly one test of each data set measures."""
    cfg = sweep(name)
    paper, table = name.split("/")
    assert (cfg.table.paper, cfg.table.name) == (paper, table.removeprefix("table"))
    cells = published.load_table(paper, cfg.table.name).query("own")
    assert set(cfg.table.settings) == set(cells["setting"])
    tests = [t for job in settings(name) for t in (job, *list_variants(job, RunFolder(CONF)).values())]
    for setting, values in cfg.table.settings.items():
        hits = [t for t in tests if all(OmegaConf.select(t, key) == value for key, value in values.items())]
        assert len(hits) == len({t.dataset.name for t in tests}), setting
    assert len(tests) == len(cfg.table.settings) * len({t.dataset.name for t in tests})
    wanted = set(cells["dataset"]) - {"mvtec_3d"} | ({"mvtec3d"} if "mvtec_3d" in set(cells["dataset"]) else set())
    assert {t.dataset.name for t in tests} == wanted
    if wanted == {"mvtec"} and cfg.category is None:
        assert {o for job in jobs(name) for o in job if "category" in o} == {f"category={c}" for c in MVTEC.split()}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_debug_keeps_the_settings_and_nothing_else(name):
    """The first category and one seed; whichever comes first on the command line."""
    few = jobs(name, "+debug=cpu")
    assert len(few) == len(settings(name)) and all({"category=all", "seed=0"} <= set(job) for job in few)
    cfg = sweep(name, "+debug=cpu")
    assert (cfg.max_categories, cfg.image_size) == (1, 64)
    assert (cfg.trainer.max_epochs, cfg.trainer.limit_train_batches) == (1, 4)


def test_tables_of_the_same_jobs_are_run_once():
    def hashes(name):
        return {config_hash(resolve(cfg)) for cfg in settings(name)}

    for one, other in (("rd/table1", "rd/table2"), ("mkd/table3", "mkd/table4"), ("stpm/table1", "stpm/table2"),
                       ("dskd/table1", "dskd/table2"), ("dskd/table3", "dskd/table4")):  # fmt: skip
        assert hashes(one) == hashes(other)
    for part, whole in (("rd/table7", "rd/table1"), ("rd/table7", "rd/table5"), ("mkd/table1", "mkd/table3"),
                        ("dskd/table9", "dskd/table1"), ("stpm/table1", "stpm/table3")):  # fmt: skip
        assert hashes(part) < hashes(whole) or hashes(part) == hashes(whole)


# One job of each, tiny ----------------------------------------------------------------------------------------

TINY = [
    "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false", "image_size=32", "batch_size=4", "trainer.max_epochs=1",
    "trainer.accelerator=cpu", "pictures=0", "logger=none", "optimizer.lr=0.001", "cache.storage=memory",
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tiny_mvtec, tmp_path_factory):
    """Data set -> overrides that find a tiny copy of it."""
    root, patch = tmp_path_factory.mktemp("sets"), pytest.MonkeyPatch()
    found = {"mvtec": (tiny_mvtec, "tile"), "mvtec3d": (root / "mvtec3d", mvtec3d(root / "mvtec3d"))}
    for name, (write, category) in WRITERS.items():
        write(root / name, **({"monkeypatch": patch} if name == "cifar10" else {"n": 30} if name == "head_ct" else {}))
        found[name] = (root / name, category)
    picture = pictures()
    for i in range(8):
        for kind in ("MT_Free", "MT_Crack"):
            save(root / "mtd" / kind / "Imgs" / f"{i}.jpg", next(picture))
            save(root / "mtd" / kind / "Imgs" / f"{i}.png", next(picture)[..., 0] // 100 * 255)
    found["mtd"] = (root / "mtd", "all")
    yield {name: [f"dataset.root={where}", f"category={category}"] for name, (where, category) in found.items()}
    patch.undo()


@cache
def stepped(config):
    """Losses and scores of a job's first step, with its data, teacher, student and optimiser."""
    cfg = OmegaConf.create(config)
    data, detector = build(cfg)
    detector.train()
    loader = data.train_dataloader()
    detector.before_fit(loader)
    optimizer = detector.configure_optimizers()
    loss = detector.training_loss(next(iter(loader)))["loss"]
    loss.backward()
    optimizer.step()
    detector.eval()
    with torch.no_grad():
        detection = detector(next(iter(data.test_dataloader()))["image"])
    return loss.item(), detection.image_score


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_one_job_of_each_on_tiny_data(name, places):
    """The first setting and the last, each on its data set; equal jobs of two experiments once."""
    for i in {0, len(settings(name)) - 1}:
        job = jobs(name)[-1 if i else 0]
        kept = [o for o in job if not o.startswith(("category=", "seed=", "backbone", "image_size="))]
        cfg = compose(f"+experiment={name}", *kept, *TINY, *places[settings(name)[i].dataset.name])
        cfg.table, cfg.variants = None, {}
        loss, scores = stepped(OmegaConf.to_yaml(cfg, resolve=True))
        assert 0 < loss < 100 and scores.isfinite().all() and len(scores) > 0


# Variants ------------------------------------------------------------------------------------------------------

OTHER = {  # model -> key -> a value that is not its default
    "rd": {"model.score_levels": [2], "model.sigma": 1.0, "model.image_score": "sum"},
    "stpm": {"model.score_levels": [1], "model.map_size": 16},
    "dskd": {"model.score_levels": [2], "model.sigma": 1.0, "model.align_corners": False},
    "mkd": {"model.score_levels": [2], "model.saliency_levels": [2], "model.saliency": "guided", "model.gradient_through_teacher": True,
            "model.scaling": "per_image", "model.sigma": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("model", list_choices("model"))
def test_what_is_declared_to_change_the_score_changes_nothing_that_is_trained(model, places):
    cfg = compose(f"model={model}", "dataset=mvtec", *TINY, *places["mvtec"])
    assert set(list_scoring_keys(cfg)) == set(OTHER[model])
    data, usual = build(cfg)
    batch = next(iter(data.train_dataloader()))

    def after_a_step(detector):
        detector.train()
        detector.before_fit([batch])
        optimizer = detector.configure_optimizers()
        detector.training_loss(batch)["loss"].backward()
        optimizer.step()
        detector.eval()
        with torch.no_grad():
            return detector.state_dict(), detector(batch["image"])

    weights, detection = after_a_step(usual)
    for key, value in OTHER[model].items():
        changed = cfg.copy()
        OmegaConf.update(changed, key, value)
        others, other = after_a_step(build_detector(changed))
        assert weights.keys() == others.keys() and all(torch.equal(weights[k], others[k]) for k in weights), key
        assert not all(torch.equal(a, b) for a, b in zip(detection, other, strict=True)), key


def results(folder):
    return json.loads((folder / "results.json").read_text())


def scores(folder):
    return (folder / "scores.csv").read_text()


def test_variants_are_tests_of_the_trained_weights(start, tmp_path, monkeypatch):
    """Each is what evaluate finds, and nothing is decoded or asked of the teacher again: once before and after a fit."""
    import kdad.data.base as base
    import kdad.engine.job as running

    asked, decoded = [], []
    attach, decode = running.attach_features, base.AnomalyDataModule.setup
    monkeypatch.setattr(running, "attach_features", lambda *a: (asked.append("run"), attach(*a)))
    monkeypatch.setattr(retest, "attach_features", lambda *a: (asked.append("evaluate"), attach(*a)))
    monkeypatch.setattr(base.AnomalyDataModule, "setup", lambda self, stage=None: (decoded.append(self), decode(self)))
    own, folder = start("model=rd", "+variants={second:{model.score_levels:[2]},sharp:{model.sigma:0.0}}", "pictures=2")
    assert asked == ["run", "run"] and len({id(data) for data in decoded}) == 1
    monkeypatch.undo()

    found = {name: folder / "variants" / name for name in ("second", "sharp")}
    assert len({scores(folder), *map(scores, found.values())}) == 3
    for name, values in (("second", ["model.score_levels=[2]"]), ("sharp", ["model.sigma=0.0"])):
        place = found[name]
        left = {"config.yaml", "curves.npz", "defects.csv", "maps", "results.json", "scores.csv"}
        assert {p.name for p in place.iterdir()} - {".kdad", ".lock"} == left
        written, config = results(place), OmegaConf.load(place / "config.yaml")
        assert written["status"] == "ok" and written["ckpt_path"] == str(folder / "checkpoints" / "tested.ckpt")
        # Thresholds of its own, from the same normal images.
        assert written["decision_images"] == own["decision_images"] and written["detection_rate"] is not None
        assert written["image_threshold"] != own["image_threshold"] and written["decision_source"] == "training"
        assert written["n_train"] == own["n_train"] and written["weights_fingerprint"] == own["weights_fingerprint"]
        key, value = values[0].split("=")
        assert str(OmegaConf.select(config, key)) == value and config.variants == {}
        # The hash is that of a run which is configured so.
        monkeypatch.setattr("tests.end_to_end.conftest.run", retest.retest)
        again, other = start("model=rd", *values, f"ckpt_path={written['ckpt_path']}", folder=f"again_{name}")
        monkeypatch.undo()
        measured = [[line.split(",")[:4] for line in scores(where).splitlines()] for where in (other, place)]
        assert measured[0] == measured[1]  # which has decisions besides
        assert again["config_hash"] == written["config_hash"] != own["config_hash"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{a:{model.loss:flattened}}", r"a: model.loss is not among the keys that may change without training"),
        ("{a:{model.score_level:[1]}}", r"Nearest: model.score_levels"),
        ("{a:{image_size:32}}", r"variants.a: image_size is not among"),
        ("{a:{model.score_levels:[4]}}", r"variants.a: model.score_levels=\[4\]: count the levels from 1 to 3"),
        ("{a/b:{model.sigma:1}}", r"variants.a/b: a variant is a folder"),
        ("{a:1}", r"variants=.*: give <name>: \{<key>: <value>, ...\}"),
    ],
)
def test_variants_that_cannot_be_tested_are_refused_before_training(start, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        start("model=rd", f"+variants={given}")
    assert results(tmp_path / "run")["status"] == "failed" and not (tmp_path / "run" / "checkpoints").exists()


def test_a_failing_variant_loses_nothing(start, tmp_path, monkeypatch, capsys):
    from kdad.models.rd import RD

    detect = RD.detect

    def fails_on_the_first(self, batch):
        if self.score_levels == [1]:
            raise ValueError("as planned")
        return detect(self, batch)

    monkeypatch.setattr(RD, "detect", fails_on_the_first)
    call = ["model=rd", "+variants={bad:{model.score_levels:[1]},good:{model.score_levels:[2]}}"]
    with pytest.raises(UserError, match="1 of 2 variants failed:\n- variant bad: as planned"):
        start(*call)
    assert "as planned" in capsys.readouterr().err
    found = {name: results(tmp_path / "run" / name) for name in (".", "variants/bad", "variants/good")}
    assert [r["status"] for r in found.values()] == ["ok", "failed", "ok"]
    assert found["variants/bad"]["error"] == "as planned" and found["."]["image_auroc"] is not None


def test_skip_done_tests_the_variants_that_are_missing(command, tiny_mvtec, tmp_path, capsys):
    """Through the command line: an experiment's sweep, of one category and seed, after the same training without it."""
    tiny = [*TINY, f"dataset.root={tiny_mvtec}", "category=tile", "hydra.sweep.dir=sweep", "optimizer.lr=0.005"]
    assert command("-m", "model=dskd", "dataset=mvtec", *tiny, "seed=0", "hydra.sweep.subdir=plain") == 0
    assert not (tmp_path / "sweep" / "plain" / "variants").exists()
    capsys.readouterr()
    experiment = ["-m", "+experiment=dskd/table9", *tiny, "seed=0", "skip_done=true"]
    assert command(*experiment) == 0
    said, folder = capsys.readouterr().out, tmp_path / "sweep" / "plain"
    assert "Done already" in said and "fit_seconds" not in said
    places = {name: folder / "variants" / name for name in ("M1", "M2", "M3")}
    assert {name: results(place)["status"] for name, place in places.items()} == {"M1": "ok", "M2": "ok", "M3": "ok"}
    assert len({scores(folder), *map(scores, places.values())}) == 4

    times = {name: (place / "results.json").stat().st_mtime_ns for name, place in places.items()}
    (places["M2"] / "results.json").write_text('{"status": "failed"}')
    assert command(*experiment) == 0
    later = {name: (place / "results.json").stat().st_mtime_ns for name, place in places.items()}
    assert [times[n] == later[n] for n in places] == [True, False, True] and results(places["M2"])["status"] == "ok"


# A sweep without -m ------------------------------------------------------------------------------------------------


def test_a_sweep_needs_m(command, tmp_path, capsys):
    assert command("+experiment=rd/table5", "seed=1") == 2
    said = capsys.readouterr().err
    assert "+experiment=rd/table5 is a sweep over category, model.bottleneck: add -m" in said
    assert not list(tmp_path.rglob("results.json"))
    assert command("-m", "+experiment=rd/table5,rd/table6", "seed=1") == 2
    assert "one experiment a command" in capsys.readouterr().err
    # With a value for each swept key it is one job, which here lacks its data.
    assert command("+experiment=stpm/table1", "seed=1", "category=tile", "dataset.root=nowhere", *TINY) == 2
    assert "no folder" in capsys.readouterr().err


def test_debug_is_heard_wherever_it_stands(command, capsys):
    arguments = ["+debug=cpu", "+experiment=mkd/figure4"]
    for order in (arguments, arguments[::-1]):
        assert command(*order, "--cfg", "all") == 0
        shown = OmegaConf.create(capsys.readouterr().out)
        assert (shown.image_size, shown.max_categories, shown.trainer.max_epochs) == (64, 1, 1)
        assert shown.hydra.sweeper.params == {"category": "all", "seed": "0", "model.cloner": "compact,equal"}
