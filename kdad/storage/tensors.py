"""Files of tensors, read without running code from them."""

import hashlib
from pathlib import Path
from typing import Any

from kdad.errors import UserError


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
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises nearly anything
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        raise UserError(f"{key}={path}: cannot be read as {what} ({reason}). {way_out}") from error


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
