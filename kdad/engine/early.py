"""What can be refused before anything heavy is imported: the job's folder, the data set's, the file of weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from kdad.data.place import Place, check_category, check_folder, describe_folders, list_categories
from kdad.engine.combinations import check_average
from kdad.engine.record import Record, describe
from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from kdad.inference.decision import check_rule
from kdad.settings.checks import list_scoring_keys
from kdad.settings.compose import resolve
from kdad.settings.overrides import find_value, split, write
from kdad.settings.roles import list_other_data, may_retest
from kdad.settings.source import read_constant, read_defaults
from kdad.teacher.weights import find_weights

if TYPE_CHECKING:
    from kdad.engine.checkpoint import Checkpoint

OURS, TEACHER = "kdad.data.", "kdad.teacher.Teacher"


def name_last(overrides: list[str]) -> list[str]:
    """Return a command line that goes on training: a run's folder as `ckpt_path` becomes the last checkpoint there.

    Raises `UserError` where that has none.
    """
    given = find_value(overrides, "ckpt_path")
    if not given or not (folder := Path(given).expanduser()).is_dir():
        return overrides
    last = RunFolder(folder).checkpoint("last")
    if not last.is_file():
        raise UserError(
            f"ckpt_path={given}: there is no {last} to go on from. A training writes it after its last epoch, every "
            "checkpoint_seconds, and when it ends after an epoch, as it was asked to; with skip_done=true the same "
            "command begins anew"
        )
    return [write("ckpt_path", str(last)) if split(text)[0] == "ckpt_path" else text for text in overrides]


def drop_unused(folder: Path, stored_in: str) -> None:
    """Remove the folder of a job that was refused, and `stored_in` of a run around it, where nothing lies in them."""
    if stored_in and folder.parent.name == stored_in:
        with suppress(OSError):  # something does
            folder.rmdir()
            folder.parent.rmdir()


def refuse_early(cfg: DictConfig, folder: RunFolder, record: Record, goes_on: bool) -> None:
    """Refuse what can be known before data and networks are loaded; record what the job is of. Raises `UserError`."""
    record.add(**describe(cfg))
    folder.refuse_to_replace(cfg.overwrite, record.results["config_hash"])
    if not goes_on:
        folder.refuse_to_begin_again(cfg.overwrite)
    check_rule(cfg.decision.rule, cfg.decision.false_alarms, cfg.decision.k)
    check_average(cfg.average_epochs, cfg.trainer, cfg.patience)
    if cfg.ckpt_path:  # `Checkpoint.explain_root` says more, and it may bring the weights
        return
    with add_weights(cfg):
        check_place(cfg)
    if cfg.backbone.get("_target_") == TEACHER and cfg.backbone.get("weights") is not None:
        check_weights(cfg)


def refuse_retest(cfg: DictConfig) -> "Checkpoint":
    """Refuse a test of trained weights whose checkpoint or data are missing, or that needs training.

    Returns the checkpoint. Raises `UserError`.
    """
    if not cfg.ckpt_path:
        raise UserError("ckpt_path=<run folder or checkpoint> is needed: the checkpoint to test")
    from kdad.engine.checkpoint import Checkpoint  # with torch, by which the file is read

    checkpoint = Checkpoint.load(cfg.ckpt_path)
    refuse_form(cfg, checkpoint)
    refuse_training(cfg, checkpoint)
    with checkpoint.explain_root():
        check_place(cfg)
    return checkpoint


def refuse_form(cfg: DictConfig, checkpoint: "Checkpoint") -> None:
    """Refuse another form= than that of training: it sets keys that need training, too. Raises `UserError`."""
    trained = checkpoint.config.get("form") or "paper"
    if (form := cfg.get("form") or "paper") != trained:
        raise UserError(
            f"form={form}: the checkpoint {cfg.ckpt_path} was trained with form={trained}. kdad run trains the other; "
            "keys of the test alone, such as model.score_levels, can be given by themselves"
        )


def refuse_training(cfg: DictConfig, checkpoint: "Checkpoint") -> bool:
    """Refuse a configuration that differs from the checkpoint's in what needs training. Raises `UserError`.

    Returns whether the data are other ones than those that it was trained on.
    """
    scoring = list_scoring_keys(cfg)
    changed = checkpoint.differences(resolve(cfg))
    others = list_other_data(changed)
    for key, (trained, value) in changed.items():
        if key == "dataset.roi":
            raise UserError(f"dataset.roi={value}: the checkpoint {cfg.ckpt_path} looks at {trained}, and nowhere else")
        if key not in others and not may_retest(key, scoring):
            raise UserError(
                f"{key}={value} needs training: the checkpoint {cfg.ckpt_path} was trained with {trained}. "
                f"Without training may change: {', '.join([*scoring, 'dataset', 'category', 'batch_size'])}. "
                "python -m kdad.run trains."
            )
    return bool(others)


def check_place(cfg: DictConfig, with_category: bool = True) -> None:
    """Refuse a data set whose folder, or the category's in it, is missing, as its class would. Raises `UserError`.

    What only the class knows is left to it: data that are made or downloaded, or that may lie elsewhere.
    """
    config = resolve(cfg)
    dataset, target = config["dataset"], str(config["dataset"].get("_target_"))
    if not target.startswith(OURS) or dataset.get("download") or not dataset.get("root") or names_elsewhere(dataset):
        return
    values = read_defaults(target) | dataset
    layout = describe_folders(values) if is_like_mvtec(target) else read_constant(target, "layout")
    obtain = values.get("obtain") or read_constant(target, "obtain")
    place = Place(str(dataset.get("name")), Path(dataset["root"]).expanduser().absolute(), layout, obtain)
    if read_constant(target, "needs_root"):
        downloadable = values.get("archive") or any(read_constant(target, name) for name in ("archive", "source"))
        check_folder(place, bool(downloadable))
    if with_category and is_like_mvtec(target) and place.root.is_dir():
        chosen = config.get("category")
        for category in chosen if isinstance(chosen, list) else [chosen]:
            name = (read_constant(target, "default_category") or "") if category is None else str(category)
            check_category(place, name, list_categories(place.root, values["train"]))


def is_like_mvtec(target: str) -> bool:
    """Return whether a class of kdad finds its categories by the keys train, test and masks, as `MVTec` does."""
    return "train" in read_defaults(target)


def names_elsewhere(dataset: Mapping[str, Any]) -> bool:
    """Return whether a data set names a place that need not lie below its root: a list of images, or a full path."""
    named = [value for key, value in dataset.items() if key != "root"]
    flat = [one for value in named for one in (value if isinstance(value, list) else [value])]
    return bool(dataset.get("list")) or any(isinstance(v, str) and Path(v).expanduser().is_absolute() for v in flat)


@contextmanager
def add_weights(cfg: DictConfig) -> Iterator[None]:
    """Add to a `UserError` of the block, on the data, that weights cannot be had, so that both are known in one go."""
    try:
        yield
    except UserError as error:
        try:
            check_weights(cfg)
        except UserError as second:
            raise UserError(f"{error}\n\n{second}") from None
        raise


def check_weights(cfg: DictConfig) -> None:
    """Refuse weights whose file is missing or whose hub cannot be reached; none are fetched. Raises `UserError`."""
    if cfg.backbone.get("pretrained"):
        find_weights(cfg.backbone.name, cfg.backbone.weights, fetch=False)
