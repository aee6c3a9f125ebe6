"""Protocols as files: what they may hold, and what is said of those that hold something else."""

from types import SimpleNamespace

import pytest

from kdad.errors import UserError
from kdad.settings import protocols
from kdad.settings.compose import CONF, PROTOCOLS, compose, resolve
from kdad.settings.protocols import FIELDS, Protocol, describe_protocol, read_protocols
from kdad.settings.roles import config_hash

NAMES = sorted(path.stem for path in (CONF / PROTOCOLS).glob("*.yaml"))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(name, text): a protocol of the user's own, as --config-dir brings it."""
    folder = tmp_path / PROTOCOLS
    folder.mkdir()
    sources = [SimpleNamespace(schema="file", path=str(tmp_path)), SimpleNamespace(schema="pkg", path="hydra.conf")]
    hydra = SimpleNamespace(runtime=SimpleNamespace(config_sources=sources))
    monkeypatch.setattr(protocols.HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(protocols.HydraConfig, "get", lambda: hydra)
    return lambda name, text: (folder / f"{name}.yaml").write_text(text)


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_read_and_says_where_it_is_from(name):
    (protocol,) = read_protocols(name, average_epochs=2)
    assert protocol != Protocol(name) and describe_protocol(protocol)
    assert "github.com/" in (CONF / PROTOCOLS / f"{name}.yaml").read_text().partition("\n\n")[0]


def test_what_the_files_say():
    rd, dinomaly = read_protocols(["rd_code", "dinomaly_code"])
    assert rd == Protocol(
        "rd_code", labels="mask", image_score="max", pro_thresholds=200, pro_mean_over="images", pro_rescale="rate"
    )
    assert (dinomaly.mask_cut, dinomaly.crop, dinomaly.map_size) == (0, 0.875, 256)
    assert describe_protocol(rd) == (
        "image_score=max, labels=mask, pro.thresholds=200, pro.mean_over=images, pro.rescale=rate"
    )


def test_none_one_and_several():
    assert read_protocols(None) == [] == read_protocols([])
    assert [p.name for p in read_protocols(["mkd_code", "rd_code", "mkd_code"])] == ["mkd_code", "rd_code"]


def test_ones_own_and_an_empty_one(write):
    write("mine", "crop: 0.5\nmask: {resize: nearest}\n")
    write("ours", "# nothing\n")
    mine, ours = read_protocols(["mine", "ours"])
    assert mine == Protocol("mine", crop=0.5, mask_resize="nearest")
    assert ours == Protocol("ours") and describe_protocol(ours) == ""


def test_every_field_has_a_default_that_it_takes():
    own = Protocol("")._asdict()
    assert {key.replace(".", "_") for key in FIELDS} == own.keys() - {"name"}
    assert all(values.fit(own[key.replace(".", "_")]) for key, values in FIELDS.items())


def test_an_unknown_name_has_a_nearest():
    with pytest.raises(UserError, match="protocol=rd_cod: no such file in protocols/. Nearest: rd_code"):
        read_protocols("rd_cod")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("crops: 0.5", "crops: no such field. Nearest: crop"),
        ("mask: nearest", "mask: no such field. Nearest: mask"),
        ("mask: {resize: cubic}", "mask.resize: cubic: give bilinear_8bit or bilinear_float or nearest"),
        ("mask: {cut: 1}", "mask.cut: 1: give a number from 0 to below 1"),
        ("crop: true", "crop: True: give a number above 0, at most 1"),
        ("map_size: 0", "map_size: 0: give a whole number, at least 1, or null"),
        ("pro: {rescale: rate}", "pro.rescale: rate is of equally spaced thresholds: give pro.thresholds"),
        ("- 3", r"should hold fields, such as crop: 0.875; found \[3\]"),
        ("{a", "cannot be read"),
    ],
)
def test_a_file_with_something_else(write, text, said):
    write("mine", text)
    with pytest.raises(UserError, match=f"mine.yaml: {said}"):
        read_protocols("mine")


def test_names_that_would_be_two_things(write):
    write("rd_code", "crop: 0.5")
    with pytest.raises(UserError, match="protocol=rd_code: there are .* and .*Give one another name"):
        read_protocols("rd_code")
    write("pro_reason", "crop: 0.5")
    with pytest.raises(UserError, match="not ending in _reason"):
        read_protocols("pro_reason")


def test_the_best_epoch_needs_several():
    with pytest.raises(
        UserError, match="protocol=rdpp_code takes the best epoch by the test images.*average_epochs=10"
    ):
        read_protocols("rdpp_code")


def test_a_finished_run_stays_the_same_run():
    base = ("model=rd", "dataset=mvtec", "category=grid")
    assert config_hash(resolve(compose(*base))) == config_hash(resolve(compose(*base, "protocol=[rd_code,mkd_code]")))
    with pytest.raises(UserError, match="protocols: no such key. Nearest: protocol"):
        compose(*base, "protocols=rd_code")
