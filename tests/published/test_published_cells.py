"""Cells typed a second time, from the papers and not from the files: a shifted column would be caught."""

import pytest

from kdad import published

IMAGE, PIXEL, PRO = "image_auroc", "pixel_auroc", "pro"
# table, method, category, setting, metric, value; a data set is named where the table has several
CELLS = {
    "rd": [
        ("1", "MKD", "zipper", "128", IMAGE, "93.2"),
        ("1", "RD", "toothbrush", "128", IMAGE, "90.3"),
        ("1", "GT", "hazelnut", "256", IMAGE, "35.9"),
        ("1", "GN", "leather", "256", IMAGE, "84.2"),
        ("1", "US", "screw", "256", IMAGE, "54.9"),
        ("1", "PSVDD", "capsule", "256", IMAGE, "76.7"),
        ("1", "DAAD", "screw", "256", IMAGE, "98.7"),
        ("1", "MF", "cable", "256", IMAGE, "97.1"),
        ("1", "PaDiM", "transistor", "256", IMAGE, "97.4"),
        ("1", "CutPaste", "cable", "256", IMAGE, "81.2"),
        ("1", "RD", "capsule", "256", IMAGE, "96.3"),
        ("1", "RD", "metal_nut", "256", IMAGE, "100"),
        ("1", "RD", "average_objects", "256", IMAGE, "98.0"),
        ("1", "RD", "average_textures", "128", IMAGE, "98.6"),
        ("2", "MKD", "transistor", "128", PIXEL, "76.5"),
        ("2", "RD", "wood", "128", PRO, "82.3"),
        ("2", "US", "transistor", "256", PRO, "66.6"),
        ("2", "US", "transistor", "256", PIXEL, None),
        ("2", "MF", "cable", "256", PRO, "93.7"),
        ("2", "SPADE", "tile", "256", PRO, "75.9"),
        ("2", "PaDiM", "zipper", "256", PIXEL, "98.5"),
        ("2", "RIAD", "cable", "256", PIXEL, "84.2"),
        ("2", "CutPaste", "zipper", "256", PIXEL, "99.3"),
        ("2", "RD", "transistor", "256", PIXEL, "92.5"),
        ("2", "RD", "transistor", "256", PRO, "78.0"),
        ("2", "RD", "average_textures", "256", PRO, "95.0"),
        ("3", "SPADE", "average", "", IMAGE, "85.5"),
        ("3", "RD", "all", "", "seconds", "0.31"),
        ("3", "RD", "all", "", "megabytes", "352"),
        ("4", "HRN", "fashion_mnist/average", "", IMAGE, "92.8"),
        ("4", "RD", "cifar10/average", "", IMAGE, "86.5"),
        ("4", "OiG", "caltech256/average", "", IMAGE, "98.2"),
        ("4", "MKD", "caltech256/average", "", IMAGE, None),
        ("5", "RD", "average", "Pre", IMAGE, "96.0"),
        ("5", "RD", "average", "Pre+OCE", PIXEL, "97.4"),
        ("6", "RD", "average", "resnet50", PRO, "93.1"),
        ("6", "RD", "average", "resnet18", IMAGE, "97.9"),
        ("7", "RD", "average", "M^3", PRO, "89.5"),
        ("7", "RD", "average", "M^{2,3}", IMAGE, "98.0"),
        ("7", "RD", "average", "M^1", PIXEL, "94.0"),
    ],
    "mkd": [
        ("1", "MKD", "average", "SmoothGrad, without Gaussian filter", PIXEL, "86.97"),
        ("1", "MKD", "average", "GBP, with Gaussian filter", PIXEL, "90.08"),
        ("2", "RAE", "mnist/8", "", IMAGE, "92.4"),
        ("2", "AnoGAN", "mnist/average", "", IMAGE, "91.3"),
        ("2", "U-Std", "mnist/2", "", IMAGE, "99"),
        ("2", "U-Std", "mnist/average", "", IMAGE, "99.35"),
        ("2", "DAGMM", "fashion_mnist/0", "", IMAGE, "30.3"),
        ("2", "DSEBM", "fashion_mnist/1", "", IMAGE, "56.0"),
        ("2", "LSA", "fashion_mnist/6", "", IMAGE, "84.1"),
        ("2", "DROCC", "cifar10/3", "", IMAGE, "67.13"),
        ("2", "CapsNetpp", "cifar10/9", "", IMAGE, "46.6"),
        ("2", "DSVDD", "cifar10/average", "", IMAGE, "64.81"),
        ("3", "AVID", "leather", "", IMAGE, "58"),
        ("3", "AnoGAN", "screw", "", IMAGE, "35.0"),
        ("3", "GT", "carpet", "", IMAGE, "45.9"),
        ("3", "GT", "hazelnut", "", IMAGE, "33.32"),
        ("3", "VAE-grad", "zipper", "", IMAGE, "67"),
        ("3", "MKD", "bottle", "", IMAGE, "99.39"),
        ("3", "MKD", "grid", "", IMAGE, "78.01"),
        ("3", "MKD", "zipper", "", IMAGE, "93.24"),
        ("4", "AE_SSIM", "tile", "", PIXEL, "59"),
        ("4", "CNN-Dict", "tile", "", PIXEL, "93"),
        ("4", "VAE-grad", "average", "", PIXEL, "89.3"),
        ("4", "MKD", "transistor", "", PIXEL, "76.45"),
        ("4", "MKD", "hazelnut", "", PIXEL, "94.62"),
        ("5", "P-Net", "all", "", IMAGE, "92.88"),
        ("5", "GT", "all", "", IMAGE, "60.13"),
        ("5", "MKD", "all", "", IMAGE, "97.01"),
        ("6", "LSA", "head_ct/all", "", IMAGE, "81.67"),
        ("6", "MKD", "brain_mri/all", "", IMAGE, "95.01"),
        ("6", "MKD", "head_ct/all", "augmented", IMAGE, "80.42"),
        ("6", "MKD", "brain_mri/all", "augmented", IMAGE, None),
    ],
    "stpm": [
        ("1", "SSIM-AE", "tile", "", PRO, "0.18"),
        ("1", "AnoGAN", "grid", "", PIXEL, "0.58"),
        ("1", "AnoGAN", "average", "", PRO, "0.44"),
        ("1", "CNN-Dict", "toothbrush", "", PRO, "0.15"),
        ("1", "STAD", "transistor", "", PRO, "0.701"),
        ("1", "STAD", "transistor", "", PIXEL, None),
        ("1", "Cut-Paste", "cable", "", PIXEL, "0.900"),
        ("1", "Patch-SVDD", "wood", "", PIXEL, "0.908"),
        ("1", "PaDiM-R18", "metal_nut", "", PRO, "0.819"),
        ("1", "SPADE", "bottle", "", PRO, "0.955"),
        ("1", "STPM", "cable", "", PRO, "0.877"),
        ("1", "STPM", "transistor", "", PRO, "0.695"),
        ("1", "STPM", "transistor", "", PIXEL, "0.825"),
        ("1", "STPM", "pill", "", PRO, "0.965"),
        ("2", "Geom", "average", "", IMAGE, "0.672"),
        ("2", "ITAE", "average", "", IMAGE, "0.839"),
        ("2", "SPADE", "average", "", IMAGE, "0.855"),
        ("3", "STPM", "average", "5", PRO, "0.504"),
        ("3", "STPM", "average", "[2,3]", IMAGE, "0.849"),
        ("3", "STPM", "average", "[2,3,4,5]", PIXEL, "0.969"),
        ("4", "STPM", "average", "MNIST", IMAGE, "0.619"),
        ("4", "STPM", "average", "SVHN", PIXEL, "0.902"),
        ("4", "STPM", "average", "CIFAR-10", PRO, "0.863"),
        ("5", "STPM", "average", "5%", IMAGE, "0.871"),
        ("5", "SPADE", "average", "5%", PIXEL, "0.932"),
        ("5", "STPM", "average", "10%", PRO, "0.913"),
        ("5", "SPADE", "average", "10%", IMAGE, "0.797"),
        ("text", "STPM", "average", "wide_resnet50_2", PRO, "0.923"),
    ],
    "dskd": [
        ("1", "Patch SVDD", "capsule", "", IMAGE, "76.7"),
        ("1", "AE-SSIM", "leather", "", IMAGE, "46.0"),
        ("1", "AnoGAN", "screw", "", IMAGE, "35.0"),
        ("1", "Spade", "grid", "", IMAGE, "47.3"),
        ("1", "Padim", "screw", "", IMAGE, "85.8"),
        ("1", "MB-PFM", "toothbrush", "", IMAGE, "88.6"),
        ("1", "DSN", "screw", "", IMAGE, "98.1"),
        ("1", "MKD", "metal_nut", "", IMAGE, "73.6"),
        ("1", "STPM", "toothbrush", "", IMAGE, "87.8"),
        ("1", "FAVAE", "carpet", "", IMAGE, "67.1"),
        ("1", "DSKD", "capsule", "", IMAGE, "93.1"),
        ("2", "AE-SSIM", "tile", "", PRO, "17.5"),
        ("2", "AnoGAN", "screw", "", PIXEL, "80.0"),
        ("2", "MB-PFM", "transistor", "", PRO, "74.9"),
        ("2", "DSN", "transistor", "", PIXEL, "87.0"),
        ("2", "DSN", "transistor", "", PRO, None),
        ("2", "STPM", "tile", "", PRO, "92.1"),
        ("2", "FAVAE", "tile", "", PIXEL, "71.4"),
        ("2", "DSKD", "transistor", "", PIXEL, "91.5"),
        ("2", "DSKD", "transistor", "", PRO, "80.2"),
        ("3", "Padim", "cookie", "", IMAGE, "58.2"),
        ("3", "CS-flow", "potato", "", IMAGE, "47.1"),
        ("3", "STPM", "rope", "", IMAGE, "96.5"),
        ("3", "DSKD", "peach", "", IMAGE, "88.0"),
        ("3", "DSKD", "cable_gland", "", IMAGE, "93.0"),
        ("4", "DSKD", "foam", "", PIXEL, "95.5"),
        ("4", "DSKD", "foam", "", PRO, "85.8"),
        ("5", "RIAD", "all", "", IMAGE, "75.2"),
        ("5", "DSN", "all", "", PIXEL, "98.0"),
        ("5", "DSKD", "all", "", PRO, "70.3"),
        ("6", "MKD", "all", "", "gigaflops", "20.96"),
        ("6", "Padim", "all", "", "million_parameters", "68.9"),
        ("6", "DSKD", "all", "", "seconds", "0.217"),
        ("6", "DSKD", "all", "", "megabytes", "105"),
        ("7", "DSKD", "average", "E-D", PRO, "87.7"),
        ("7", "DSKD", "average", "T-E", IMAGE, "95.3"),
        ("8", "DSKD", "average", "without DFE", PIXEL, "89.6"),
        ("9", "DSKD", "average", "M_1", PRO, "88.0"),
        ("9", "DSKD", "average", "M_3", IMAGE, "92.7"),
    ],
}
SPREADS = [
    ("3", "mvtec", "bottle", "", "0.032"),
    ("3", "mvtec", "carpet", "", "0.8"),
    ("3", "mvtec", "screw", "", "0.643"),
    ("3", "mvtec", "average", "", ""),
    ("5", "retinal_oct", "all", "", "0.426"),
    ("6", "brain_mri", "all", "", "0.229"),
    ("6", "head_ct", "all", "augmented", "0.006"),
]


@pytest.mark.parametrize("paper", CELLS)
def test_cells_typed_again(paper):
    for table, method, category, setting, metric, value in CELLS[paper]:
        cells = published.load_table(paper, table)
        dataset, _, category = category.rpartition("/")
        found = (cells["method"] == method) & (cells["category"] == category) & (cells["setting"] == setting)
        found &= cells["metric"] == metric
        if dataset:
            found &= cells["dataset"] == dataset
        assert cells.loc[found, "value"].tolist() == ([value] if value else []), (table, method, category, setting)
    assert {row[0] for row in CELLS[paper]} >= {table for table in published.list_tables(paper) if table.isdigit()}


@pytest.mark.parametrize(("table", "dataset", "category", "setting", "spread"), SPREADS)
def test_spreads_typed_again(table, dataset, category, setting, spread):
    cells = published.load_table("mkd", table)
    found = cells["own"] & (cells["dataset"] == dataset) & (cells["category"] == category)
    assert cells.loc[found & (cells["setting"] == setting), "spread"].tolist() == [spread]


def test_fractions():
    assert published.load_table("stpm", 2)["fraction"].iloc[-1] == 0.955
    rd = published.load_table("rd", 1)
    assert rd.loc[rd["value"] == "100", "fraction"].eq(1.0).all()
