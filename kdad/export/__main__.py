"""Make a trained detector one file: `python -m kdad.export ckpt_path=<run> format=onnx`.

Teacher, normalisation, student, map, score, thresholds and normalised score are all inside; onnxruntime, OpenVINO or
torch run it without kdad. It is kept only if it computes what the detector does: on normal images, those of its
training where they still lie, or `normal=<folder>`. Beside it lies a card, <file>.json: input, outputs, thresholds,
teacher, proof.

- `kdad export ckpt_path=<run> format=onnx`
- `kdad export ckpt_path=<run> format=openvino precision=int8 normal=parts/ok`
- `kdad export ckpt_path=<run> format=checkpoint`: a checkpoint with the teacher's weights in it, for kdad elsewhere

No code in a checkpoint is run.
"""

from omegaconf import DictConfig

from kdad.engine.launch import launch_without_folder
from kdad.errors import UserError
from kdad.inference.files import find_checkpoint
from kdad.settings.checks import check_configuration

WHOLE = "checkpoint"  # the format of kdad's own


def main() -> None:
    """Run `kdad export`, which is `python -m kdad.export`."""
    launch_without_folder(export, "export", completes=False)


def export(cfg: DictConfig) -> None:
    """Write the file that the configuration asks for. Raises `UserError`."""
    check_configuration(cfg, "export")
    if not cfg.ckpt_path:
        raise UserError("ckpt_path=<run folder or checkpoint> is needed: the trained detector")
    from kdad.export.formats import FORMATS  # with torch, which the refusals so far do without

    if cfg.format not in (WHOLE, *FORMATS):
        raise UserError(f"format={cfg.format}: give one of {', '.join((WHOLE, *FORMATS))}")
    path = find_checkpoint(cfg.ckpt_path)
    from kdad.export.writing import export_checkpoint, export_graph

    if cfg.format == WHOLE:
        export_checkpoint(cfg, path)
    else:
        export_graph(cfg, path, FORMATS[cfg.format])


if __name__ == "__main__":
    main()
