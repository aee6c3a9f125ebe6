"""t-SNE of features: which vectors, of which detector, and what is drawn of them."""

from types import SimpleNamespace

import hydra
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from kdad.data.samples import Sample
from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from kdad.figures.__main__ import main
from kdad.figures.network import measure_networks
from kdad.figures.tsne import choose_samples, collect_vectors, draw_tsne, embed_vectors, rebuild_run
from kdad.results.series import find_runs, group_runs, read_scores
from kdad.run import run
from kdad.settings.compose import CONF

pytestmark = pytest.mark.slow  # processes of their own, or many seconds

SAMPLES = [Sample(f"{kind}/{i}", label, kind) for label, kind in ((0, "good"), (1, "dent")) for i in range(5)]


class Data:
    """Images of 8 px; masks of one pixel, which lies in cell (1, 2) of a 4 x 4 level and in (0, 1) of a 2 x 2 one."""

    has_masks = True

    def read_image(self, sample):
        return torch.full((3, 8, 8), SAMPLES.index(sample), dtype=torch.uint8)

    def read_mask(self, sample):
        mask = torch.zeros(8, 8, dtype=torch.bool)
        mask[3, 4] = True
        return mask, None


def pairs(batch):
    """Features that say where they come from: (image + 1, row + 1, column + 1), and longer in the student."""
    image = batch["image"][0, 0, 0, 0].item() * 255 + 1
    levels = []
    for size in (4, 2):
        rows, columns = torch.meshgrid(torch.arange(size) + 1.0, torch.arange(size) + 1.0, indexing="ij")
        levels.append(torch.stack((torch.full_like(rows, image), rows, columns))[None])
    return levels, [7 * level for level in levels]


DETECTOR = SimpleNamespace(pairs=pairs, teacher=SimpleNamespace(paths=["shallow", "deep"]))


def unit(*vector):
    return np.array(vector) / np.linalg.norm(vector)


def test_vectors_are_of_the_same_positions_in_both_networks():
    shallow, deep = collect_vectors(Data(), DETECTOR, [SAMPLES[0], SAMPLES[7]], points=1000)
    assert (shallow.level, deep.level) == ("shallow", "deep")
    assert (len(shallow.anomalous), len(deep.anomalous)) == (32, 8)
    for one, cell in ((shallow, (2, 3)), (deep, (1, 2))):
        np.testing.assert_allclose(one.teacher, one.student, rtol=1e-6)  # unit vectors: seven times is the same
        assert one.anomalous.sum() == 1
        np.testing.assert_allclose(one.teacher[one.anomalous][0], unit(8, *cell), rtol=1e-6)
        assert len(np.unique(one.teacher.round(5), axis=0)) > len(one.teacher) / 2


def test_without_masks_a_position_is_what_its_image_is():
    data = Data()
    data.has_masks = False
    shallow, _ = collect_vectors(data, DETECTOR, [SAMPLES[0], SAMPLES[7]], points=5)
    assert shallow.anomalous.tolist() == [False] * 5 + [True] * 5
    again, _ = collect_vectors(data, DETECTOR, [SAMPLES[0], SAMPLES[7]], points=5)
    assert np.array_equal(shallow.teacher, again.teacher)


def test_images_are_half_normal_and_spread():
    assert [sample.path for sample in choose_samples(SAMPLES, "4")] == ["good/0", "good/4", "dent/0", "dent/4"]
    assert len(choose_samples(SAMPLES, "99")) == 10
    with pytest.raises(UserError, match="--images 1"):
        choose_samples(SAMPLES, "1")


def test_every_vector_is_drawn_where_it_was_embedded():
    levels = collect_vectors(Data(), DETECTOR, SAMPLES[3:7], points=20)
    figure = draw_tsne(levels, "title")
    for panel, one in zip(figure.axes, levels, strict=True):
        (teacher, student), flats = (
            embed_vectors(one),
            [c.get_offsets() for c in panel.collections if len(c.get_offsets()) > 1],
        )
        assert sum(map(len, flats)) == 2 * len(one.anomalous)
        np.testing.assert_array_equal(flats[0], teacher[~one.anomalous])
        np.testing.assert_array_equal(flats[1], student[~one.anomalous])
    assert figure.axes[0].get_title() == "level 1 (shallow)"
    assert figure.axes[0].get_xlabel() == "distance: normal 0.00, anomalous 0.00"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch with random teacher weights, on eight pictures."""
    root, generator = tmp_path_factory.mktemp("figures"), np.random.default_rng(0)
    mask = np.zeros((40, 40), np.uint8)
    mask[8:20, 8:20] = 255
    for name in (
        "train/good/0",
        "train/good/1",
        "train/good/2",
        "test/good/0",
        "test/good/1",
        "test/dent/0",
        "test/dent/1",
    ):
        path = root / "data/tile" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    for i in range(2):
        path = root / f"data/tile/ground_truth/dent/{i}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(
            "run",
            [
                "model=stpm", "dataset=mvtec", f"dataset.root={root / 'data'}", "category=tile", "backbone=resnet18",
                "backbone.pretrained=false", "image_size=32", "trainer.max_epochs=1", "trainer.accelerator=cpu",
                "val_fraction=0", "monitor=null",
            ],
        )  # fmt: skip
    run(cfg, RunFolder(root / "run"))
    return root / "run"


def test_the_detector_is_the_one_that_was_tested(trained):
    (one,) = group_runs(find_runs([trained]))
    row = one.runs.iloc[0]
    data, detector = rebuild_run(row)
    images = torch.stack([data.read_image(sample) for sample in data.test_samples]).float() / 255
    with torch.no_grad():
        scores = detector(images).image_score
    np.testing.assert_allclose(scores, read_scores(row)["score"], rtol=1e-4)
    levels = collect_vectors(data, detector, choose_samples(data.test_samples, "dent/0.png"), points=100)
    assert [(one.anomalous.sum(), (~one.anomalous).sum()) for one in levels] == [(9, 55), (4, 12), (1, 3)]


def test_one_figure_per_run(trained, tmp_path):
    main(["tsne", str(trained), "--images", "2", "--points", "9", "--out", str(tmp_path)])
    assert {p.name for p in tmp_path.iterdir()} == {f"tsne_stpm_mvtec_tile_seed0.{kind}" for kind in ("pdf", "png")}


def test_what_its_network_costs(trained, tmp_path):
    """The network is built once for runs of one configuration; the figure's point is what was measured."""
    row = group_runs(find_runs([trained]))[0].runs.iloc[0]
    count = sum(p.numel() for p in rebuild_run(row)[1].parameters())
    found = measure_networks(pd.DataFrame([row, row], index=[3, 5]), repeats=2)
    assert found.index.tolist() == [3, 5] and found["parameters"].tolist() == [count] * 2
    assert (found["low"] > 0).all() and (found["low"] <= found["latency"]).all()
    assert (found["latency"] <= found["high"]).all() and found["high"].nunique() == 1
    main(["cost", str(trained), "--x", "parameters", "--out", str(tmp_path)])
    points = pd.read_csv(tmp_path / "cost_parameters_image_auroc.csv")
    assert points.loc[0, "cost"] == pytest.approx(count / 1e6) and points.loc[0, "value"] == 100 * row["image_auroc"]


def test_a_missing_checkpoint_is_named(trained, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    for name in ("results.json", "config.yaml"):
        (tmp_path / "run" / name).write_bytes((trained / name).read_bytes())
    with pytest.raises(SystemExit):
        main(["tsne", str(tmp_path / "run")])
    assert "run/checkpoints/tested.ckpt: no such file" in capsys.readouterr().err
