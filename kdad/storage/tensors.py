"""Files of tensors: written whole or not at all, and read without running code from them."""

import hashlib
import zipfile
from pathlib import Path
from typing import IO, Any, cast

from kdad.errors import UserError
from kdad.storage.atomic import atomic_write


def read_plain(path: Path, key: str, what: str, way_out: str) -> Any:
    """Read a file of tensors and plain values, onto the CPU; `key` is the configuration key that names it.

    `what` says what it should be.

    Raises `UserError`, which ends in `way_out`, for one that is damaged, or would run code.
    """
    import torch  # which reading a cache's list, for example, does without
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises nearly anything
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        raise UserError(f"{key}={path}: cannot be read as {what} ({reason}). {way_out}") from error


def check_archive(path: Path) -> None:
    """Check the archive that torch writes: torch itself looks at no checksum, and unpacks whatever a size says.

    Raises `ValueError` where a part is damaged, or compressed, which torch's own never are. Files of torch before 1.6,
    which are no archives, pass.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("it is compressed, and torch's files are not")
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged")


def write_tensors(content: Any, path: Path) -> None:
    """Write tensors and plain values as torch does, whole or not at all. Raises `OSError`, of a full disk, too."""
    import torch  # which finding or hashing a file does without

    with atomic_write(path, "wb") as file:
        watched = Watched(file)
        try:
            torch.save(content, cast(IO[bytes], watched))
        except RuntimeError:  # what torch makes of an error in writing, which names neither file nor reason
            if watched.error is None:
                raise
            raise watched.error from None


class Watched:
    """A file to write to that keeps the error that ended it."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
