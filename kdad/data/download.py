"""Fetching a data set's archive, on request only: with checksum and progress, and whole or not at all."""

import shutil
import tempfile
from pathlib import Path
from tarfile import TarError
from typing import NamedTuple
from zipfile import BadZipFile

from torch.hub import download_url_to_file
from torchvision.datasets.utils import extract_archive

from kdad.errors import UserError


class Archive(NamedTuple):
    url: str
    sha256: str  # in hex


def fetch(archive: Archive, root: Path) -> None:
    """Download and unpack so that `root` holds what the archive does. Does nothing where root has content already.

    A single folder that holds everything else in the archive is left out. Raises UserError where the download
    fails or its checksum is another one; root is untouched then.
    """
    if root.is_dir() and any(root.iterdir()):
        return
    build = None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        build = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
        file, content = build / archive.url.rsplit("/", 1)[-1], build / "content"
        download_url_to_file(archive.url, str(file), hash_prefix=archive.sha256, progress=True)
        extract_archive(str(file), str(content), remove_finished=True)
        entries = [entry for entry in content.iterdir() if entry.name not in ("__MACOSX", ".DS_Store")]
        if len(entries) == 1 and entries[0].is_dir():
            content = entries[0]
        content.chmod(0o755)
        content.replace(root)
    except (OSError, RuntimeError, ValueError, TarError, BadZipFile) as error:  # the network, the checksum, the archive
        if root.is_dir() and any(root.iterdir()):
            return  # another process was faster
        raise UserError(
            f"downloading {archive.url} into {root} failed: {error}. "
            "Download and unpack it by hand, and say where it is: dataset.root=<folder>"
        ) from error
    finally:
        if build:
            shutil.rmtree(build, ignore_errors=True)
