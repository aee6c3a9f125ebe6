"""What a fit needs to know of a detector before it starts."""

import pytest
import torch

from kdad.engine.batch_norm import takes_single
from kdad.engine.combinations import check_average, check_tiling
from kdad.engine.fit import stop_early
from kdad.errors import UserError
from kdad.models.dskd import DSKD
from kdad.models.rd import RD
from kdad.models.stpm import STPM


@pytest.mark.parametrize(
    ("model", "image_size", "takes"),
    [(RD, 32, False), (RD, 64, True), (DSKD, 32, False), (DSKD, 64, True), (STPM, 32, True)],
)
def test_one_image_trains_where_no_norm_has_one_value_per_channel(tiny_resnet, adam, model, image_size, takes):
    """As torch itself finds: RD's and DSKD's embedding is 1 x 1 at 32 px, STPM's deepest level 2 x 2."""
    detector = model(backbone=tiny_resnet, optimizer=adam, image_size=image_size)
    before, drawn = {k: v.clone() for k, v in detector.state_dict().items()}, torch.get_rng_state()
    assert takes_single(detector) == takes
    assert detector.training and not detector.teacher.training and torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in detector.state_dict().items())
    batch = {"image": torch.rand(1, 3, image_size, image_size)}
    if takes:
        detector.training_loss(batch)
    else:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            detector.training_loss(batch)


def test_patience_needs_validation_images():
    assert stop_early(None, 0) == []
    with pytest.raises(UserError, match="patience=3 needs validation images"):
        stop_early(3, 0)
    with pytest.raises(UserError, match="average_epochs=2 needs to know .* found patience"):
        check_average(2, {"max_epochs": 9}, patience=3)


def test_an_overlap_needs_tiles():
    with pytest.raises(UserError, match=r"tiling\.overlap=16: of which tiles"):
        check_tiling({"size": None, "overlap": 16})
    for fine in (None, {"size": None, "overlap": "auto"}, {"size": 64, "overlap": 16}):
        check_tiling(fine)
