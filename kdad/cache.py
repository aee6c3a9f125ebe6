"""List or clear what kdad keeps on disk between runs: `python -m kdad.cache [list|clear]`."""

import argparse
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kdad.settings.compose import find_cache_folder
from kdad.storage.files import GB, list_files, read_note, remove


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `kdad cache`, which is `python -m kdad.cache`."""
    default = find_cache_folder()
    parser = argparse.ArgumentParser(prog="python -m kdad.cache", description="What kdad keeps on disk between runs.")
    parser.add_argument("action", choices=("list", "clear"), nargs="?", default="list")
    parser.add_argument("--folder", default=default, help=f"the cache.folder of the runs (default {default})")
    chosen = parser.parse_args(arguments)
    folder = Path(chosen.folder).expanduser() / "arrays"
    files = sorted(list_files(folder, "*.npy"))
    total = sum(length for _, _, length in files) / GB
    if chosen.action == "clear":
        for path, _, _ in files:
            remove(path)
        for path, _, _ in list_files(folder, ".building.*"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # it holds something else, or was never there
            folder.rmdir()
        print(f"Removed {len(files)} arrays, {total:.2f} GB, from {folder}")
        return
    for path, used, length in files:
        print(f"{length / GB:8.3f} GB  {time.strftime('%Y-%m-%d %H:%M', time.localtime(used))}  {read_note(path)[0]}")
    print(f"{len(files)} arrays, {total:.2f} GB, in {folder}")


if __name__ == "__main__":
    main()
