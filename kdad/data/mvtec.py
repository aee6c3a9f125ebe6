"""MVTec AD's layout.

Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", CVPR 2019.
"""

from kdad.data.base import AnomalyDataModule
from kdad.data.images import image_files, visible_folders
from kdad.data.samples import Sample
from kdad.errors import UserError


class MVTec(AnomalyDataModule):
    """A set without a ground_truth folder is read without masks: image metrics only."""

    layout = "<category>/train/good, <category>/test/<kind>, <category>/ground_truth/<kind>/<stem>_mask.png"
    obtain = "MVTec AD is at https://www.mvtec.com/company/research/datasets/mvtec-ad, licence CC BY-NC-SA 4.0"
    binary_masks = True

    def categories(self) -> list[str]:
        self.check_root()
        return sorted(folder.name for folder in visible_folders(self.root) if (folder / "train").is_dir())

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Raises UserError where the training folder holds another kind than good."""
        folder = self.root / self.category
        for kind in visible_folders(folder / "train"):
            if kind.name != "good":
                raise UserError(f"{kind}: training images are normal ones, in {folder / 'train' / 'good'} only")
        train = [Sample(path, 0, "good", None) for path in image_files(folder / "train" / "good")]
        truth = folder / "ground_truth"
        test = []
        for kind in visible_folders(folder / "test"):
            for path in image_files(kind):
                if kind.name == "good":
                    test.append(Sample(path, 0, "good", None))
                else:
                    mask = truth / kind.name / f"{path.stem}_mask.png" if truth.is_dir() else None
                    test.append(Sample(path, 1, kind.name, mask))
        return train, test
