"""How Lightning writes and reads a run's checkpoints."""

from pathlib import Path
from typing import Any

from lightning_fabric.plugins import TorchCheckpointIO

from kdad.storage.tensors import write_tensors


class AtomicCheckpoints(TorchCheckpointIO):
    """Write checkpoints to a temporary file in the same folder first, and read them without running code.

    Lightning writes to the system's temporary folder, and a move from there to another file system is a copy, which a
    kill would leave truncated in the place of the good checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        write_tensors(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *args: Any, **keywords: Any) -> dict[str, Any]:
        return super().load_checkpoint(path, *args, **{**keywords, "weights_only": True})
