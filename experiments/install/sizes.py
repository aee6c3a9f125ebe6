"""What kdad and each of its extras take on disk: `python experiments/install/sizes.py > experiments/install/sizes.csv`.

Of an environment that has them, all distributions that an extra needs and kdad without extras does not, with all that
these need; what the files that their RECORDs list take on disk, without compiled .pyc. PyTorch and what it needs
has a row of its own. An extra that is not installed whole is left out. Megabytes are millions of bytes.
"""

import csv
import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def need(name, extras=(), found=None):
    """Return the names of all distributions that one needs with these extras, itself among them."""
    found = {} if found is None else found
    name = canonicalize_name(name)
    if name in found and set(extras) <= found[name]:
        return set(found)
    found[name] = found.get(name, {""}) | set(extras)
    for text in distribution(name).requires or ():
        asked = Requirement(text)
        if asked.marker is None or any(asked.marker.evaluate({"extra": extra}) for extra in found[name]):
            need(asked.name, asked.extras, found)
    return set(found)


def measure(names):
    """Return how many bytes the files of distributions take on disk."""
    paths = {file.locate() for name in names for file in distribution(name).files or () if file.suffix != ".pyc"}
    return sum(512 * path.stat().st_blocks for path in paths if path.exists())


def main():
    own = need("kdad")
    torch = need("torch") | need("torchvision")
    rows = [("PyTorch", measure(torch)), ("kdad", measure(own - torch))]
    for extra in distribution("kdad").metadata.get_all("Provides-Extra"):
        try:
            rows.append((extra, measure(need("kdad", [extra]) - own)))
        except PackageNotFoundError as error:
            print(f"{extra} is left out: {error} is not installed", file=sys.stderr)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["extra", "MB"])
    table.writerows([name, round(size / 1e6)] for name, size in rows)


if __name__ == "__main__":
    main()
