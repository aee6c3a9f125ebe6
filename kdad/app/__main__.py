"""Try trained detectors in a browser, or over HTTP: `python -m kdad.app ckpt_path=<run>`.

A page takes pictures that are dropped, pasted or picked, and shows what each detector makes of them; `POST /predict` of
the same address takes a picture and returns JSON. It is open to this machine alone, unless `host` says otherwise.

- `kdad app ckpt_path=<run>`, then open http://127.0.0.1:7860
- `kdad app 'ckpt_path=[<run>,<another>]'`: several detectors side by side
- `curl -F image=@part.png 'http://127.0.0.1:7860/predict?overlay=true'`

No code in a checkpoint is run, and no picture is kept.
"""

import os
import socket
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig
from rich.console import Console

from kdad.engine.checkpoint import Checkpoint
from kdad.engine.launch import launch_without_folder
from kdad.engine.record import name_category
from kdad.errors import UserError
from kdad.inference.files import find_checkpoint
from kdad.settings.checks import check_configuration

if TYPE_CHECKING:
    from kdad.app.batching import Batcher

NEEDS = ("gradio", "fastapi", "uvicorn")


def main() -> None:
    """Run `kdad app`, which is `python -m kdad.app`."""
    launch_without_folder(serve, "app", completes=False)


def serve(cfg: DictConfig) -> None:
    """Serve the page and /predict until they are stopped. Raises `UserError`."""
    check_configuration(cfg, "app")
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise UserError(f"kdad app needs {', '.join(missing)}: pip install 'kdad[app]'")
    given = list(cfg.ckpt_path) if isinstance(cfg.ckpt_path, ListConfig) else [cfg.ckpt_path] if cfg.ckpt_path else []
    if not given:
        raise UserError("ckpt_path=<run folder or checkpoint> is needed: the trained detector, or a list of several")
    from kdad.data.images import limit_size  # with torch, which a refusal need not wait for

    limit_size(cfg.max_megapixels, "max_megapixels")
    paths = [find_checkpoint(path) for path in given]
    with open_socket(cfg.host, cfg.port) as listening:  # before seconds are spent on loading
        batchers = load_detectors(cfg, paths)
        with TemporaryDirectory(prefix="kdad_app_") as folder:
            # Read when gradio is imported: uploads go where they end with the process, and nothing is sent anywhere.
            os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
            import uvicorn

            from kdad.app.examples import find_hardest
            from kdad.app.page import Page
            from kdad.app.server import LOCAL, build_server

            app = build_server(batchers, cfg.max_megabytes, cfg.host)
            Page(batchers, find_hardest(paths[0], cfg.examples)).mount(app, cfg.max_megabytes)
            host, port = listening.getsockname()[:2]
            console = Console()
            if cfg.host not in LOCAL:
                console.print(f"Everyone who reaches host={cfg.host} can have pictures judged: there is no password")
            address = f"[{host}]" if ":" in host else host
            console.print(f"Open http://{address}:{port} (end with Ctrl-C)", soft_wrap=True, highlight=False)
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
            uvicorn.Server(config).run(sockets=[listening])


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises `UserError` where the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(f"host={host} port={port}: {error}. port=0 takes a free one") from error


def load_detectors(cfg: DictConfig, paths: list[Path]) -> "dict[str, Batcher]":
    """Return a batcher for each checkpoint, by a name that says what it detects. Raises `UserError`."""
    from kdad.app.batching import Batcher
    from kdad.inference.detector import load

    batchers: dict[str, Batcher] = {}
    for path in paths:
        detector = load(
            path, cfg.device, cfg.backbone.weights, list(cfg.plugins), cfg.batch_size, fold=cfg.fold_batch_norms
        )
        if detector.decision is None:
            raise UserError(
                f"ckpt_path={path}: it has no thresholds, which colours and decisions come from. kdad calibrate takes "
                "some from normal images"
            )
        dataset = Checkpoint.load(path).config.get("dataset", {})
        what = name_category(dataset.get("category")) or dataset.get("name")
        name = "-".join(str(part) for part in (detector.network.name, what))
        names = (name, *(f"{name}-{number}" for number in range(2, len(paths) + 1)))
        batchers[next(one for one in names if one not in batchers)] = Batcher(detector)
    return batchers


if __name__ == "__main__":
    main()
