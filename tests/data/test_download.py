"""Downloads: only on request, checked, and whole or not at all. The archives are files of this machine."""

import hashlib
import tarfile

import pytest

from kdad.data import MVTec
from kdad.data.download import Archive, fetch
from kdad.errors import UserError
from tests.layouts import LAYOUTS


@pytest.fixture
def archive(tmp_path):
    """Of the tiny mpdd, in a folder of another name."""
    LAYOUTS["mpdd"](tmp_path / "made")
    with tarfile.open(tmp_path / "set.tar", "w") as file:
        file.add(tmp_path / "made", "Set_of_2020")
    digest = hashlib.sha256((tmp_path / "set.tar").read_bytes()).hexdigest()
    return Archive((tmp_path / "set.tar").as_uri(), digest)


@pytest.fixture
def mpdd(archive, options, tmp_path):
    def build(**changes) -> MVTec:
        return MVTec(**options(tmp_path / "data/mpdd", category="tubes", archive=archive._asdict(), **changes))

    return build


def test_only_on_request(mpdd, tmp_path):
    with pytest.raises(UserError, match="dataset.download=true downloads it"):
        mpdd().check()
    data = mpdd(download=True)
    data.check()
    made, found = (sorted(p.relative_to(r) for p in r.rglob("*")) for r in (tmp_path / "made", data.root))
    assert found == made and [p.name for p in (tmp_path / "data").iterdir()] == ["mpdd"]


def test_what_is_there_is_left_alone(mpdd, archive, tmp_path):
    (tmp_path / "data/mpdd").mkdir(parents=True)
    (tmp_path / "data/mpdd/mine").touch()
    fetch(archive, tmp_path / "data/mpdd")
    assert [p.name for p in (tmp_path / "data/mpdd").iterdir()] == ["mine"]
    with pytest.raises(UserError, match="has no category"):
        mpdd(download=True).check()


@pytest.mark.parametrize("fault", ["another checksum", "no such file", "no archive"])
def test_a_failed_download_leaves_nothing(archive, tmp_path, fault):
    if fault == "another checksum":
        archive = archive._replace(sha256="0" * 64)
    elif fault == "no such file":
        archive = archive._replace(url=archive.url + "x")
    else:
        content = b"no archive"
        (tmp_path / "set.tar").write_bytes(content)
        archive = archive._replace(sha256=hashlib.sha256(content).hexdigest())
    root = tmp_path / "data/mpdd"
    with pytest.raises(UserError, match=f"(?s)downloading {archive.url} into {root} failed: .*dataset.root=<folder>"):
        fetch(archive, root)
    assert not list(root.parent.iterdir())


def test_a_set_behind_a_form_says_where_it_is(options, tmp_path):
    data = MVTec(**options(tmp_path / "set", category="a", download=True, obtain="It is at https://example.org"))
    with pytest.raises(UserError, match=f"not downloaded by kdad: It is at https://example.org. .*{tmp_path / 'set'}"):
        data.check()
