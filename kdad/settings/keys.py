"""What each configuration key means: the one table behind hashes, resuming, testing again, reports, help and refusals.

What follows from it is in `roles.py`.

A key has exactly one role, that of the longest entry it begins with: `dataset.official.grid.train` is under
`dataset.official`, `dataset.every` under `dataset`. A plug-in's key needs no entry: it has its group's role.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from kdad.settings import values as v
from kdad.settings.values import Values


class Role(Enum):
    """What a job becomes when a key has another value."""

    METHOD = "another method"
    CONDITION = "another setting of the same method"
    IDENTITY = "another repetition: seed or category"
    PLACE = "the same, lying elsewhere"
    SPEED = "the same, computed in another way"
    DISPLAY = "the same, shown or used otherwise"


class Key(NamedTuple):
    """One entry of the table; `name` stands for itself and for what lies below it."""

    name: str
    role: Role
    meaning: str = ""  # for help and documentation
    values: Values | None = None
    retest: bool = False  # a trained detector may be tested with another value, though training with it is another job
    lasting: bool = False  # says how long training lasts: more of it is the same training, gone on with
    copy: bool = False  # repeats a key of the top level
    recognised: bool = False  # what it names is recognised by its content: a checkpoint refuses another teacher
    supplied: bool = False  # kdad itself passes it to the group's target
    before: Any = ...  # of a key that came later: the value that does what was done without it
    effect: str = ""  # what another value is, where the role's words would mislead: for documentation
    training: bool = False  # means nothing to a test of a trained detector, though it decides no result
    needs: tuple[str, tuple[Any, ...]] | None = None  # the key means something only where that one has such a value


RENAMED = "the same, called otherwise: counted as another job"
CORRUPTIONS = ("none", "brightness", "contrast", "blur", "noise", "jpeg", "shift", "rotate", "scale")


def _choice_of(group: str) -> Values:
    return Values(f"a choice of conf/{group}", v.MAPPING.fit)


def _keys_of(*names: str, whole: bool = False) -> Values:
    """Return the mappings that have no other keys than these; on request all of them."""
    return Values(
        f"{', '.join(names[:-1])} and {names[-1]}",
        lambda node: isinstance(node, Mapping) and set(node) <= set(names) and (not whole or set(node) == set(names)),
    )


METHOD, CONDITION, IDENTITY, PLACE, SPEED, DISPLAY = Role
KEYS = (
    # What is trained, on what
    Key("model", METHOD, "the detector, with its paper's whole recipe", _choice_of("model")),
    Key("model.name", IDENTITY, "what results call the detector", v.NAME, effect=RENAMED),
    *(Key(f"model.{name}", METHOD, supplied=True) for name in ("auto_levels", "backbone", "optimizer", "levels")),
    *(Key(f"model.{name}", METHOD, supplied=True) for name in ("image_size", "normalisation")),
    # Those that version 0.1 had not
    Key("model.zero_init_last", METHOD, "residual branches of the student start at zero, as timm has it", before=True),
    Key("model.align_corners", METHOD, "how DSKD's maps are upsampled", before=False),
    Key("model.saliency_levels", METHOD, "levels whose gradient is MKD's map, from 1; null: all", before=None),
    Key("model.loss", METHOD, "which form of the loss is trained on", before="half_squared"),
    Key("optimizer", METHOD, "the model's, with changed values: optimizer.lr=",
        Values("the model's, with changed values", v.MAPPING.fit)),
    *(Key(f"{group}._partial_", DISPLAY) for group in ("optimizer", "backbone")),
    Key("scheduler", METHOD, "of the learning rate: none, cosine, step, exponential", v.OPTIONAL, before=None),
    Key("scheduler._partial_", DISPLAY),
    Key("levels", METHOD, "auto (the model's rule), or a list of timm feature indices or module paths", v.LEVELS),
    Key("normalisation", METHOD, "auto (the teacher's own statistics), imagenet or none",
        v.one_of("auto", "imagenet", "none")),
    Key("dataset", CONDITION, "the data set", _choice_of("dataset")),
    Key("dataset.name", IDENTITY, "what results call the data set", v.NAME, effect=RENAMED),
    Key("dataset.root", PLACE, "the folder that holds it", v.TEXT_OR_NULL),
    Key("dataset.download", PLACE, "fetch it where it is missing and its terms allow that", v.SWITCH),
    Key("dataset.archive", PLACE, "what is fetched", v.ARCHIVE),
    Key("dataset.obtain", DISPLAY, "where it comes from, for messages", v.TEXT_OR_NULL),
    Key("dataset.max_megapixels", DISPLAY, "a larger image is refused; null: none is", v.MEGAPIXELS),
    Key("dataset.official", DISPLAY, "how many images it should have; others are warned of", v.COUNTS),
    Key("dataset.masks", CONDITION, "where masks lie", retest=True),
    Key("dataset.saturation", DISPLAY, "file below a category's folder that says how much of a region is enough: sPRO"),
    Key("dataset.anomalous", CONDITION, "folders of anomalous images, to test", retest=True),
    Key("dataset.split_seed", CONDITION, "which images are held out", v.WHOLE),
    Key("dataset.split_by", CONDITION, "folder's: name or count", before="count"),
    Key("dataset.recursive", CONDITION, "folder's: images at any depth below the named folders, too", before=False),
    Key("dataset.list", CONDITION, "folder's: a CSV file that names the images instead of folders", before=None),
    Key("dataset.train_fraction", CONDITION, "part of the training images that is used", v.PART),
    Key("dataset.json", CONDITION, "Real-IAD's split, a folder of JSON files"),
    Key("dataset.views", CONDITION, "Real-IAD's views: all, or a list such as [C1,C2]"),
    Key("dataset.resolution", CONDITION, "Real-IAD's folder of pictures: 256, 512, 1024 or raw"),
    Key("dataset.shots", CONDITION, "so many training images, held-out ones among them; null: all",
        v.COUNT_OR_NULL, before=None),
    Key("dataset.contamination", CONDITION, "share of anomalous images among those to train on, taken from the test",
        v.SHARE, before=0.0),
    Key("dataset.max_contamination", CONDITION, "the highest of a study, so that its tests are of the same images",
        v.or_null(v.SHARE),
        before=None),
    Key("dataset.augment", CONDITION, "of training images: none or rotate_scale", v.one_of("none", "rotate_scale")),
    Key("dataset.intensity", CONDITION, "how values become 8 bits: auto, window:<lo>,<hi> or percentile:<lo>,<hi>",
        v.INTENSITY, before="auto"),
    Key("dataset.page", CONDITION, "of image files that hold several", v.FROM_ZERO, before=0),
    Key("dataset.roi", CONDITION, "the region of interest, outside of which nothing counts: [left,top,right,bottom], a "
        "mask file or a folder of masks", v.ROI, before=None),
    Key("dataset.category", IDENTITY, copy=True),
    Key("dataset.seed", IDENTITY, copy=True),
    Key("dataset.image_size", CONDITION, copy=True),
    Key("dataset.batch_size", CONDITION, copy=True, retest=True),
    Key("dataset.tiling.size", CONDITION, copy=True, before=None),
    Key("dataset.tiling.overlap", CONDITION, copy=True, before="auto"),
    Key("dataset.val_fraction", CONDITION, copy=True),
    Key("dataset.calibration_fraction", CONDITION, copy=True, before=0.0),
    Key("category", IDENTITY, "one category of the data set, [a,b] or all: several, one after the other", v.CATEGORY),
    Key("unified", CONDITION, "one detector for all the categories that category= names, tested on each", v.SWITCH,
        before=False),
    Key("seed", IDENTITY, "of initialisation and the order of training images", v.SEED),
    Key("form", DISPLAY, "paper, or released: the authors' code's value of each key in which that differs",
        v.one_of("paper", "released"), effect="another method, by the keys that it sets", training=True),
    Key("image_size", CONDITION, "pixels: a number, to which both sides are resized, or [height, width]", v.SIZE),
    Key("tiling", CONDITION, "pictures at their own size, cut into tiles: size and overlap",
        _keys_of("size", "overlap", whole=True)),
    Key("tiling.size", CONDITION, "of a tile, in pixels of the picture, or [height, width]; auto: image_size; null: "
        "pictures are seen whole", v.or_null(v.TILE), before=None),
    Key("tiling.overlap", CONDITION, "pixels that neighbouring tiles share at least; auto: a quarter", v.OVERLAP,
        before="auto"),
    Key("batch_size", CONDITION, "images in a training step, of each process", v.COUNT, retest=True),
    Key("val_fraction", CONDITION, "part of the training images kept for validation", v.SHARE),
    Key("calibration_fraction", CONDITION, "part of the other training images that thresholds alone are taken from",
        v.SHARE, before=0.0),
    Key("monitor", CONDITION, "null: the last epoch's weights are tested; val_loss, val_map: those of its lowest",
        v.MONITOR),
    Key("patience", CONDITION, "epochs without a lower validation loss after which training ends; null: none",
        v.COUNT_OR_NULL, before=None),
    Key("average_epochs", CONDITION, "metrics are means over the weights of so many last epochs", v.COUNT,
        retest=True, lasting=True),
    # The teacher
    Key("backbone", CONDITION, "the teacher", _choice_of("backbone"), retest=True, recognised=True),
    Key("backbone.name", CONDITION, "any timm network with a pyramid of strides, <model>.<tag>", v.TEXT, retest=True,
        recognised=True),
    Key("backbone.weights", CONDITION, "a .safetensors or .pth file instead of timm's hub", v.TEXT_OR_NULL, retest=True,
        recognised=True),
    Key("backbone.weight_keys", PLACE, "by_name or in_order: how the file's tensors are matched",
        v.one_of("by_name", "in_order")),
    Key("backbone.pretrained", CONDITION, "false: random weights, for tests of shapes and speed only",
        v.SWITCH, retest=True,
        recognised=True),
    *(Key(f"backbone.{name}", CONDITION, supplied=True) for name in ("levels", "auto", "image_size")),
    Key("default_backbone", DISPLAY, "the teacher where backbone= is not given: backbone.name says which it became",
        v.TEXT_OR_NULL, effect="another setting of the same method, where backbone= is not given", training=True),
    # How it is trained: whatever Lightning's Trainer takes
    Key("trainer", CONDITION, "arguments of Lightning's Trainer: trainer.max_epochs=", _choice_of("trainer")),
    Key("trainer.max_epochs", CONDITION, "epochs of training", v.EPOCHS, lasting=True),
    Key("trainer.precision", CONDITION, "32-true, bf16-mixed, ..., or auto: by what is faster here", v.PRECISION,
        retest=True),
    Key("trainer.devices", CONDITION, "processes or accelerators; batch_size is each one's own",
        v.DEVICES, retest=True),
    Key("trainer.num_nodes", CONDITION, "machines", v.COUNT, retest=True, before=1),
    Key("trainer.limit_test_batches", CONDITION, "test a number of batches, or a fraction", v.BATCHES, retest=True),
    Key("trainer.accelerator", SPEED, "auto, cpu, gpu, ...", v.OBJECT),
    Key("trainer.strategy", SPEED, "auto, ddp, ...", v.OBJECT),
    Key("trainer.deterministic", SPEED, "true, false or warn", v.one_of(True, False, "warn", None)),
    Key("trainer.num_sanity_val_steps", SPEED, values=v.or_null(v.ENDLESS)),
    Key("trainer.use_distributed_sampler", SPEED, values=v.SWITCH),
    *(Key(f"trainer.{name}", SPEED) for name in ("benchmark", "inference_mode", "profiler", "plugins")),
    Key("trainer.limit_train_batches", CONDITION, "train on a number of batches, or a fraction", v.BATCHES),
    Key("trainer.gradient_clip_val", CONDITION, "largest norm of the gradient", v.or_null(v.NOT_NEGATIVE)),
    Key("trainer.log_every_n_steps", DISPLAY, values=v.or_null(v.FROM_ZERO)),
    *(Key(f"trainer.enable_{name}", DISPLAY, values=v.or_null(v.SWITCH)) for name in ("progress_bar", "model_summary")),
    *(Key(f"trainer.{name}", DISPLAY) for name in ("enable_autolog_hparams", "model_registry", "detect_anomaly")),
    Key("trainer.default_root_dir", PLACE, "give hydra.run.dir=", supplied=True),
    Key("trainer.logger", PLACE, "give logger=", supplied=True),
    Key("trainer.callbacks", PLACE, "patience= ends training early, monitor=val_loss tests its best epoch, scheduler= "
        "changes the rate", supplied=True),
    Key("trainer.enable_checkpointing", CONDITION, "checkpoint_seconds= says how often", supplied=True),
    Key("trainer.limit_val_batches", CONDITION, "val_fraction= says how many images it holds out", supplied=True),
    # How it is tested
    Key("metrics", CONDITION, "of pixels: mode exact, streaming or auto",
        _keys_of("mode", "pixels", "pro_limits", "memory_gb", "extra"), retest=True),
    Key("metrics.mode", CONDITION, "exact, streaming or auto", v.one_of("auto", "exact", "streaming"), retest=True),
    Key("metrics.pixels", CONDITION, "all, or anomalous_images: without the pixels of normal images, as in MKD's code",
        v.one_of("all", "anomalous_images"), retest=True, before="all"),
    Key("metrics.pro_limits", DISPLAY, "false-positive rates up to which PRO is integrated; 0.3 is pro, 0.05 pro_0.05",
        v.RATES,
        retest=True),
    Key("metrics.extra", DISPLAY, "metrics of one's own, torchmetrics.Metric: extra_<name> in results.json, beside all "
        "others", v.METRICS, retest=True, before={}),
    Key("protocol", DISPLAY, "also count the test as another paper's code does, not comparable: a name, or several, of "
        "conf/protocols", v.PROTOCOLS, retest=True),
    Key("metrics.memory_gb", SPEED, "memory for the pixel scores of the test, beyond which auto streams them",
        v.METRICS_GB),
    # How it decides
    Key("decision", CONDITION, "thresholds from normal images: rule, false_alarms, k",
        _keys_of("rule", "false_alarms", "k", whole=True)),
    # What the test images go through, see kdad/data/corruption.py
    Key("corruption", CONDITION, "of the test images: none, or a lamp, lens, sensor or fixture that changes",
        v.one_of(*CORRUPTIONS), before="none", retest=True),
    Key("severity", CONDITION, "of the corruption", v.whole("1, 2 or 3", lambda n: 1 <= n <= 3), before=1, retest=True,
        needs=("corruption", CORRUPTIONS[1:])),
    Key("decision.rule", CONDITION, "quantile, mean_std or max",
        v.one_of("quantile", "mean_std", "max"), before="quantile"),
    Key("decision.false_alarms", CONDITION, "quantile: the share of normal images to call anomalous",
        v.ALARMS, before=0.01, needs=("decision.rule", ("quantile",))),
    Key("decision.k", CONDITION, "mean_std: so many standard deviations above the mean", v.NOT_NEGATIVE, before=3.0,
        needs=("decision.rule", ("mean_std",))),
    # How it is computed
    Key("cache", SPEED, "of decoded images and teacher features",
        _keys_of("storage", "memory_gb", "disk_gb", "folder")),
    Key("cache.storage", SPEED, "memory, disk, off, or auto", v.one_of("auto", "memory", "disk", "off")),
    *(Key(f"cache.{name}", SPEED, "gigabytes of them", v.GIGABYTES) for name in ("memory_gb", "disk_gb")),
    Key("cache.folder", PLACE, values=v.TEXT),
    Key("speed", SPEED, "auto, or off: without what kdad does for speed on this machine", v.SPEED),
    Key("compile", SPEED, "torch.compile what is trained", v.SWITCH, training=True),
    Key("threads", SPEED, "of the CPU; null: torch's own choice", v.COUNT_OR_NULL),
    Key("repeats", SPEED, "timed calls", v.COUNT),
    Key("runtimes", SPEED, "what the network is timed in", v.or_null(v.TEXTS)),
    Key("checkpoint_seconds", SPEED, "last.ckpt is written at most so often, and after the last epoch", v.SECONDS,
        training=True),
    # How a trained detector is applied
    Key("input", DISPLAY, "what is judged: a file, a folder, a pattern, several of these, or - for standard input",
        v.PLACES),
    Key("normal", DISPLAY, "normal images, for thresholds or a proof: a file, a folder, a pattern, or several",
        v.PLACES),
    Key("anomalous", DISPLAY, "anomalous images, likewise: for the rule f1, and to say how many are detected",
        v.PLACES),
    Key("device", SPEED, "auto, cpu, cuda, ...", v.TEXT),
    Key("host", DISPLAY, "what the page is open to: 127.0.0.1 is this machine alone", v.TEXT),
    Key("port", DISPLAY, "of the page; 0: a free one", v.PORT),
    Key("fold_batch_norms", SPEED, "work batch norm into the convolutions: moves scores by rounding", v.SWITCH),
    Key("examples", DISPLAY, "images of the run's test to choose from", v.FROM_ZERO),
    Key("max_megabytes", DISPLAY, "a larger file is refused",
        v.number("a number above 0", lambda n: n > 0)),
    Key("overlays", DISPLAY, "heat and contour over each picture: all, anomalous or none",
        v.one_of("all", "anomalous", "none")),
    Key("maps", DISPLAY, "anomaly maps: none, npy, tiff16, or mvtec_ad2: as that set's server takes them",
        v.one_of("none", "npy", "tiff16", "mvtec_ad2")),
    Key("masks", DISPLAY, "PNG masks of the pixels above their threshold", v.SWITCH),
    Key("strict", DISPLAY, "stop at a file that cannot be read", v.SWITCH),
    Key("watch", DISPLAY, "go on with files that arrive", v.SWITCH),
    Key("watch_seconds", DISPLAY, "end so many seconds after the last new file; null: never",
        v.or_null(v.SECONDS)),
    Key("max_megapixels", DISPLAY, "a larger picture is refused; null: none is", v.MEGAPIXELS),
    Key("plugins", DISPLAY, "modules with detectors of your own that may be imported", v.PLUGINS),
    Key("format", DISPLAY, "of the exported file: onnx, openvino, torch, or checkpoint with its teacher in it",
        v.one_of("checkpoint", "torch", "onnx", "openvino")),
    Key("precision", DISPLAY, "of the exported file: fp32, fp16 or int8", v.one_of("fp32", "fp16", "int8"),
        effect="the same detector, rounded otherwise"),
    Key("images", DISPLAY, "an exported file is proven on at most so many normal images", v.COUNT),
    Key("min_agreement", DISPLAY, "of a lower precision: the share of equal decisions below which it is not kept",
        v.number("a number from 0 to 1", lambda n: 0 <= n <= 1)),
    Key("output", PLACE, "the file to write; null: beside the given one", v.TEXT_OR_NULL),
    Key("roi", CONDITION, "folder of masks of the pictures' regions of interest, for a detector that needs one each",
        v.TEXT_OR_NULL),
    Key("rule", CONDITION, "of thresholds: quantile, mean_std, max, or with anomalous images f1",
        v.one_of("quantile", "mean_std", "max", "f1")),
    Key("false_alarms", CONDITION, "as decision's in kdad.run", v.ALARMS, needs=("rule", ("quantile",))),
    Key("k", CONDITION, "as decision's in kdad.run", v.NOT_NEGATIVE, needs=("rule", ("mean_std",))),
    # Where from, and what else is done with it
    Key("ckpt_path", PLACE, "a checkpoint: run goes on training from it, evaluate tests it, others apply it",
        v.or_null(v.TEXTS), effect="another detector, or the same, lying elsewhere"),
    Key("skip_done", DISPLAY, "leave out a job whose configuration has complete results already", v.SWITCH),
    Key("plan", DISPLAY, "price the job or sweep, hours, memory, disk, without running it", v.SWITCH, training=True),
    Key("overwrite", DISPLAY, "replace complete results in the folder that is written to", v.SWITCH),
    Key("max_categories", DISPLAY, "category=all: only the first so many", v.COUNT_OR_NULL,
        needs=("category", ("all",))),
    Key("pictures", DISPLAY, "at most so many pictures of image, map and mask", v.FROM_ZERO),
    Key("logger", DISPLAY, "csv, wandb, tensorboard or none", v.OPTIONAL),
    Key("logger.save_dir", PLACE, supplied=True),
    Key("variants", DISPLAY, "further tests of the trained weights", v.VARIANTS, training=True),
    Key("objective", DISPLAY, "what a job returns to a search: loss or val_loss", v.OBJECTIVE, training=True),
    Key("objective_on_test_data", DISPLAY, "also let image_auroc, pixel_auroc or pro be one", v.SWITCH, training=True,
        needs=("objective", ("loss", "val_loss", "image_auroc", "pixel_auroc", "pro"))),
    Key("table", DISPLAY, "of an experiment: the printed table that it fills", v.MAPPING_OR_NULL, training=True),
)  # fmt: skip
BY_NAME = {key.name: key for key in KEYS}


def find_key(name: str) -> Key:
    """Return the table entry of a dotted key: its own, or that of the nearest enclosing group.

    Raises `KeyError` for a top-level key that no entry knows.
    """
    place = name
    while place not in BY_NAME:
        place, dot, _ = place.rpartition(".")
        if not dot:
            raise KeyError(f"{name}: no such key in kdad/settings/keys.py")
    return BY_NAME[place]
