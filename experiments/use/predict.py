"""Memory and speed of kdad predict: python experiments/use/predict.py <run> <picture folder> <n> [key=value ...]

Judges n pictures, which are links to those of the folder, in a process of its own whose resident memory is read every
second; prints images a second, and memory by how far it was.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(run: str, pictures: Path, n: int, *more: str) -> None:
    sources = sorted(path for path in pictures.rglob("*.png"))
    with tempfile.TemporaryDirectory() as place:
        for i in range(n):
            (Path(place) / f"{i:06}.png").symlink_to(sources[i % len(sources)])
        out = Path(place) / "out"
        arguments = ["-m", "kdad.predict", f"ckpt_path={run}", f"input={place}", f"hydra.run.dir={out}", *more]
        process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
        page, seen, start = os.sysconf("SC_PAGE_SIZE"), [], time.monotonic()
        while process.poll() is None:
            try:
                resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * page / 2**20
                judged = (out / ".judged").read_bytes().count(b"\n") - 1
                seen.append((judged, resident))
            except (OSError, IndexError):
                pass
            time.sleep(1)
        print(
            (process.stdout.read() if process.stdout else "").strip(),
            f"{time.monotonic() - start:.0f} s in all",
            sep="\n",
        )
    for share in (0.05, 0.25, 0.5, 0.75, 1.0):
        judged, resident = min(seen, key=lambda row: abs(row[0] - share * n))
        print(f"{judged:7d} judged: {resident:6.0f} MiB")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
