"""Tiny faithful copies of data sets' layouts: `LAYOUTS[name](root)` writes one and gives the category to run.

Of each category 8 normal images to train, 4 to validate where the set has such a split, 3 to test, and 2 anomalous ones
per kind: noise of 70 x 70 px, where anomalous with a bright square over `SQUARE`.
"""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 70
SQUARE = (slice(20, 40), slice(30, 50))
N_TRAIN, N_VALIDATION, N_NORMAL, N_ANOMALOUS = 8, 4, 3, 2


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def pictures(anomalous: bool = False) -> Iterator[np.ndarray]:
    """Endless, each another, uint8 (SIDE,SIDE,3)."""
    generator = np.random.default_rng(anomalous)
    while True:
        picture = generator.integers(60, 120, (SIDE, SIDE, 3), dtype=np.uint8)
        if anomalous:
            picture[SQUARE] = 230
        yield picture


def mask(value: int = 255) -> np.ndarray:
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[SQUARE] = value
    return pixels


def fill(folder: Path, n: int, source: Iterator[np.ndarray], suffix: str = "png") -> list[Path]:
    return [save(folder / f"{i:03}.{suffix}", next(source)) for i in range(n)]


def mpdd(root: Path) -> str:
    normal, anomalous, tubes = pictures(), pictures(True), root / "tubes"
    fill(tubes / "train/good", N_TRAIN, normal)
    fill(tubes / "test/good", N_NORMAL, normal)
    for path in fill(tubes / "test/anomalous", N_ANOMALOUS, anomalous):
        save(tubes / f"ground_truth/anomalous/{path.stem}_mask.png", mask())
    return "tubes"


def mvtec3d(root: Path) -> str:
    normal, anomalous, bagel = pictures(), pictures(True), root / "bagel"
    counts = {"train/good": N_TRAIN, "validation/good": N_VALIDATION, "test/good": N_NORMAL}
    for place, n in counts.items():
        for path in fill(bagel / place / "rgb", n, normal):
            beside(path, "xyz", "tiff", np.zeros((SIDE, SIDE), np.float32))
            if place == "test/good":
                beside(path, "gt", "png", mask(0))
    for kind in ("crack", "hole"):
        for path in fill(bagel / "test" / kind / "rgb", N_ANOMALOUS, anomalous):
            beside(path, "xyz", "tiff", np.zeros((SIDE, SIDE), np.float32))
            beside(path, "gt", "png", mask())
    (bagel / "calibration").mkdir()
    (root / "readme.txt").write_text("terms")
    return "bagel"


def mvtec_ad2(root: Path) -> str:
    """Pictures are called after their lighting; nothing says which of the private ones are anomalous."""
    normal, anomalous, can = pictures(), pictures(True), root / "can"
    for place, n in {"train": N_TRAIN, "validation": N_VALIDATION, "test_public": N_NORMAL}.items():
        lit(can / place / "good", n, normal)
    for path in lit(can / "test_public/bad", N_ANOMALOUS, anomalous):
        save(can / f"test_public/ground_truth/bad/{path.stem}_mask.png", mask())
    for place in ("test_private", "test_private_mixed"):
        lit(can / place, 2, anomalous)
    return "can"


def lit(folder: Path, n: int, source: Iterator[np.ndarray]) -> list[Path]:
    lightings = ("regular", "overexposed", "shift_1")
    return [save(folder / f"{i:03}_{lightings[i % 3]}.png", next(source)) for i in range(n)]


def beside(path: Path, folder: str, suffix: str, pixels: np.ndarray) -> None:
    save(path.parents[1] / folder / f"{path.stem}.{suffix}", pixels)


def mvtec_loco(root: Path) -> str:
    """The first mask of an image is a logical defect's upper half, the second the lower; values name the defect."""
    normal, anomalous, box = pictures(), pictures(True), root / "breakfast_box"
    for place, n in {"train": N_TRAIN, "validation": N_VALIDATION, "test": N_NORMAL}.items():
        fill(box / place / "good", n, normal)
    for kind in ("logical_anomalies", "structural_anomalies"):
        for path in fill(box / "test" / kind, N_ANOMALOUS, anomalous):
            for number, (value, rows) in enumerate({255: slice(0, 30), 247: slice(30, SIDE)}.items()):
                part = np.zeros((SIDE, SIDE), np.uint8)
                part[rows] = mask(value)[rows]
                save(box / "ground_truth" / kind / path.stem / f"{number:03}.png", part)
    config = [
        {"defect_name": "upper", "pixel_value": 255, "saturation_threshold": 49, "relative_saturation": False},
        {"defect_name": "lower", "pixel_value": 247, "saturation_threshold": 0.5, "relative_saturation": True},
    ]
    (box / "defects_config.json").write_text(json.dumps(config))
    return "breakfast_box"


def btad(root: Path) -> str:
    """Product 01 has BMP images and PNG masks, 03 both in BMP."""
    for product, suffixes in {"01": ("bmp", "png"), "02": ("png", "png"), "03": ("bmp", "bmp")}.items():
        normal, anomalous, folder = pictures(), pictures(True), root / product
        fill(folder / "train/ok", N_TRAIN, normal, suffixes[0])
        fill(folder / "test/ok", N_NORMAL, normal, suffixes[0])
        for path in fill(folder / "test/ko", N_ANOMALOUS, anomalous, suffixes[0]):
            save(folder / f"ground_truth/ko/{path.stem}.{suffixes[1]}", mask())
    return "01"


def visa(root: Path) -> str:
    """Masks hold the number of the kind, and JPEG images have capital suffixes."""
    rows = []
    for name in ("candle", "pcb1"):
        folder = root / name / "Data"
        paths = fill(folder / "Images/Normal", N_TRAIN + N_NORMAL, pictures(), "JPG")
        parts = ["train"] * N_TRAIN + ["test"] * N_NORMAL
        rows += [(name, part, "normal", path.relative_to(root), "") for part, path in zip(parts, paths, strict=True)]
        for number, path in enumerate(fill(folder / "Images/Anomaly", N_ANOMALOUS, pictures(True), "JPG"), 1):
            drawn = save(folder / f"Masks/Anomaly/{path.stem}.png", mask(number))
            rows.append((name, "test", "anomaly", path.relative_to(root), drawn.relative_to(root)))
    (root / "split_csv").mkdir()
    with (root / "split_csv/1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("object", "split", "label", "image", "mask"), *rows])
    return "candle"


def real_iad(root: Path) -> str:
    """Each picture is another part from another view; the splits lie in folders, as they are packed."""
    normal, anomalous = pictures(), pictures(True)
    folder, entries = root / "realiad_1024/audiojack", {"train": [], "test": []}
    wanted = [
        ("train", "OK", N_TRAIN),
        ("test", "OK", N_NORMAL),
        ("test", "BX", N_ANOMALOUS),
        ("test", "HS", N_ANOMALOUS),
    ]
    for part, kind, n in wanted:
        for i in range(n):
            place = "OK" if kind == "OK" else f"NG/{kind}"
            name = f"{place}/S{i:04}/audiojack_{i:04}_{place[:2]}_C{i % 5 + 1}_{part}.jpg"
            save(folder / name, next(normal if kind == "OK" else anomalous))
            drawn = None if kind == "OK" else name.replace(".jpg", ".png")
            if drawn:
                save(folder / drawn, mask())
            entry = {"category": "audiojack", "anomaly_class": kind, "image_path": name, "mask_path": drawn}
            entries[part].append(entry)
    meta = {"prefix": "audiojack/", "normal_class": "OK"}
    noisy = [*entries["train"], *entries["test"][-1:]]
    for split, train in {"realiad_jsons": entries["train"], "realiad_jsons_fuiad_0.1": noisy}.items():
        file = root / "realiad_jsons" / split / "audiojack.json"
        file.parent.mkdir(parents=True)
        test = [entry for entry in entries["test"] if entry not in train]
        file.write_text(json.dumps({"meta": meta, "train": train, "test": test}))
    return "audiojack"


def stc(root: Path) -> str:
    """Two scenes, of each one training clip of 10 frames, and a test clip of 11 whose last 6 are anomalous."""
    for scene in ("01", "12"):
        normal, anomalous = pictures(), pictures(True)
        fill(root / f"training/frames/{scene}_001", 10, normal, "jpg")
        frames = root / f"testing/frames/{scene}_0014"
        fill(frames, 5, normal, "jpg")
        for i in range(5, 11):
            save(frames / f"{i:03}.jpg", next(anomalous))
        labels = (np.arange(11) >= 5).astype(np.int8)
        for name, masks in {"frame": labels, "pixel": labels[:, None, None] * mask(1)}.items():
            path = root / f"testing/test_{name}_mask/{scene}_0014.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, masks)
    return "all"


N_FRAMES = 12


def write_video(path: Path, n: int = N_FRAMES) -> Path:
    """`n` grey frames of 96 x 64 px in MPEG-4; each is brighter than the one before."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 64, "yuv420p", 4_000_000
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), brightness(i), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def brightness(frame: int) -> int:
    return 20 + 15 * frame


def stc_with_videos(root: Path) -> Path:
    """Its training clips as they are downloaded; scene 13 has no others. Needs PyAV."""
    stc(root)
    shutil.rmtree(root / "training/frames")
    for scene in ("01", "12", "13"):
        write_video(root / f"training/videos/{scene}_001.avi")
    write_video(root / "training/videos/01_002.avi", 4)
    return root


LAYOUTS = {f.__name__: f for f in (mpdd, mvtec3d, mvtec_ad2, mvtec_loco, btad, visa, real_iad, stc)}
