"""What a detector costs: `python -m kdad.benchmark model=rd`.

Time per image, FLOPs, parameters, memory and checkpoint size of what `kdad.run` would train, on random images, beside
the figures printed in RD Table 3 and DSKD Table 6. Measured is `forward`: from images (B, 3, H, W) in memory to maps at
image size and scores; reading files is not in it, MKD's backward pass is.

`runtimes` are measured in turn: eager is torch as in a test phase, folded has batch norm in the convolutions before it,
compile is torch.compile of that, onnxruntime and openvino run what `kdad export` writes, int8 with calibrated ranges.
"""

import json
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from kdad.engine.launch import launch
from kdad.settings.checks import check_configuration
from kdad.storage.atomic import atomic_write, refuse_existing

CONFIG = "benchmark"


def main() -> None:
    """Run `kdad benchmark`, which is `python -m kdad.benchmark`."""
    launch(run_benchmark, CONFIG)


def run_benchmark(cfg: DictConfig) -> None:
    """Measure a detector's costs, write benchmark.json and print a table: one job of a command line or sweep."""
    path = Path(HydraConfig.get().runtime.output_dir) / "benchmark.json"
    refuse_existing(path, cfg.overwrite)
    check_configuration(cfg, CONFIG)
    from kdad.benchmark.measuring import measure_costs  # with torch, which a refusal need not wait for
    from kdad.benchmark.table import print_costs

    costs = measure_costs(cfg)
    with atomic_write(path) as file:
        json.dump(costs, file, indent=2)
    print_costs(costs)
    Console().print(f"Written to {path}", soft_wrap=True)


if __name__ == "__main__":
    main()
