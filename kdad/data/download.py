"""Fetching a data set's archive, on request only: with checksum and progress, and whole or not at all."""

import tempfile
from pathlib import Path
from tarfile import TarError
from typing import NamedTuple
from zipfile import BadZipFile

from torch.hub import download_url_to_file
from torchvision.datasets.utils import extract_archive

from kdad.errors import UserError
from kdad.storage.atomic import build_folder, has_content


class Archive(NamedTuple):
    """A file that holds a whole data set."""

    url: str
    sha256: str  # in hex


def fetch(archive: Archive, root: Path) -> None:
    """Download an archive and unpack it into `root`, unless `root` has content already.

    A single folder that holds everything else in the archive is left out. Raises `UserError` where the download
    fails or its checksum is another one; root is untouched then.
    """
    if has_content(root):
        return
    try:
        with (
            build_folder(root) as build,
            tempfile.TemporaryDirectory(dir=build.parent, prefix=f".{root.name}.") as work,
        ):
            file, content = Path(work) / archive.url.rsplit("/", 1)[-1], Path(work) / "content"
            download_url_to_file(archive.url, str(file), hash_prefix=archive.sha256, progress=True)
            extract_archive(str(file), str(content), remove_finished=True)
            entries = [entry for entry in content.iterdir() if entry.name not in ("__MACOSX", ".DS_Store")]
            (entries[0] if len(entries) == 1 and entries[0].is_dir() else content).replace(build)
    except (OSError, RuntimeError, ValueError, TarError, BadZipFile) as error:  # the network, the checksum, the archive
        if has_content(root):
            return  # another process was faster
        raise UserError(
            f"downloading {archive.url} into {root} failed: {error}. "
            "Download and unpack it by hand, and say where it is: dataset.root=<folder>"
        ) from error
