"""Stand-ins for the downloads of both tables: official names, counts, sizes and forms, no byte of the originals.

    python tests/stand_ins.py DIR          # small: all names and counts, tiny images, weights of a few kB
    python tests/stand_ins.py DIR --full   # the official sizes, about 2.5 GB

Blobs on noise stand for polyps and prostates; a file STAND-IN.txt in every zip says so."""
import argparse
import io
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scsam.protocols import read_protocol

NOTE = "Generated images in the official form, for a rehearsal: not the data set; no number from them is a result.\n"
PARTS = {"TrainingData_Part1": range(0, 17), "TrainingData_Part2": range(17, 34), "TrainingData_Part3": range(34, 50)}
TESTS = {"CVC-300": 60, "CVC-ClinicDB": 62, "CVC-ColonDB": 380, "ETIS-LaribPolypDB": 196, "Kvasir": 100}
SIZES = {"CVC-300": (500, 574), "CVC-ClinicDB": (288, 384), "CVC-ColonDB": (500, 574), "ETIS-LaribPolypDB": (966, 1225)}
KVASIR = ((531, 622), (1072, 1920), (528, 618), (332, 487), (1024, 1280))  # sizes differ from image to image
HEADER = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = {direction}
Offset = {offset}
CenterOfRotation = 0 0 0
AnatomicalOrientation = RAI
ElementSpacing = {spacing}
DimSize = {size}
ElementType = {kind}
ElementDataFile = {file}
"""


def blob(shape, at, radius):  # bool, an ellipsoid
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum(((x - c) / r) ** 2 for x, c, r in zip(axes, at, radius)) <= 1


def volume(n: int, seed: int, full: bool):
    "A volume (slices, rows, columns) of int16 and its mask: 15 to 54 slices of 256 to 512 pixels, or 3 of 32."
    rng = np.random.default_rng([seed, n])
    side, slices = (int(rng.choice([256, 320, 384, 400, 512])), int(rng.integers(15, 55))) if full else (32, 3)
    if full and n in (0, 1):
        side, slices = ((256, 15), (512, 54))[n]  # both ends are there
    shape = (slices, side, side)
    a, b = side / rng.uniform(5, 8, 2)
    mask = blob(shape, (slices / 2, side / 2, side / 2), (slices / 2.4, a, b))
    noise = rng.integers(0, 60, (1, side, side))
    return (200 + 150 * mask + noise).astype("<i2"), mask.astype("i1"), rng.choice([0.27, 0.4, 0.625, 0.75])


def add_volume(z: zipfile.ZipFile, folder: str, n: int, seed: int, full: bool, masked: bool):
    "CaseNN.mhd and .raw, as ITK writes them; every third one lies in another direction than the scanner's axes."
    image, mask, mm = volume(n, seed, full)
    turned = n % 3 == 2
    files = [(f"Case{n:02d}", image, "MET_SHORT"), (f"Case{n:02d}_segmentation", mask, "MET_CHAR")]
    for name, a, kind in files[: 1 + masked]:
        head = HEADER.format(
            direction="-1 0 0 0 -1 0 0 0 1" if turned else "1 0 0 0 1 0 0 0 1",
            offset=f"{74.8 if turned else -74.8} {72.5 if turned else -72.5} {-36.25 - n}",
            spacing=f"{mm} {mm} {2.2 if mm < 0.3 else 3.6}",
            size=" ".join(str(x) for x in a.shape[::-1]),
            kind=kind,
            file=f"{name}.raw",
        )
        z.writestr(f"{folder}{name}.mhd", head)
        z.writestr(f"{folder}{name}.raw", a.tobytes())


def promise12(out: Path, full: bool = False, seed: int = 0) -> list:
    "The four zips of the challenge's page: 50 volumes with masks in three parts, and 30 without."
    made = []
    for part, cases in {**PARTS, "TestData": range(30)}.items():
        test = part == "TestData"
        with zipfile.ZipFile(out / f"{part}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
            z.writestr("STAND-IN.txt", NOTE)
            for n in cases:
                add_volume(z, f"{part}/" if test else "", n, seed + test, full, masked=not test)
        made.append(out / f"{part}.zip")
    return made


def png(a: np.ndarray) -> bytes:
    f = io.BytesIO()
    Image.fromarray(a).save(f, "PNG", compress_level=1)
    return f.getvalue()


def polyp(n: int, size: tuple, full: bool):
    "An image and its mask, of an official size or an eighteenth of it."
    rng = np.random.default_rng([7, n, *size])
    h, w = size if full else (max(16, s // 18) for s in size)
    at, radius = rng.uniform(0.3, 0.7, 2) * (h, w), rng.uniform(0.1, 0.3, 2) * (h, w)
    mask = blob((h, w), at, radius)
    image = rng.integers(60, 130, (math.ceil(h / 8), math.ceil(w / 8), 3)).repeat(8, 0).repeat(8, 1)[:h, :w]
    image = np.where(mask[..., None], image + [90, 30, 20], image).astype(np.uint8)
    return png(image), png(mask.astype(np.uint8) * 255)


def kvasir_name(n: int) -> str:
    "A name of the form that Kvasir-SEG's have."
    return "cju" + np.base_repr(36**12 + 7919 * 36**6 + n * 104729**2, 36).lower().rjust(22, "0")[:22]


def pranet(out: Path, full: bool = False) -> list:
    "PraNet's two zips: 900 + 550 training images, and five test sets; as a Mac packs them, with its own files beside."
    cases = read_protocol("polyp-5")["cases"]
    test = sorted(int(c["id"].split("/")[1]) for c in cases if c["role"] == "test:CVC-ClinicDB")
    clinic = [n for n in range(1, 613) if n not in test]
    train = [(f"{n}", (288, 384)) for n in clinic] + [(kvasir_name(n), KVASIR[n % 5]) for n in range(900)]
    with zipfile.ZipFile(out / "TrainDataset.zip", "w", zipfile.ZIP_STORED) as z:
        z.writestr("TrainDataset/STAND-IN.txt", NOTE)
        z.writestr("TrainDataset/.DS_Store", b"\0")
        for n, (name, size) in enumerate(train):
            for folder, data in zip(("image", "masks"), polyp(n, size, full)):
                z.writestr(f"TrainDataset/{folder}/{name}.png", data)
    names = {
        "CVC-300": range(149, 209), "CVC-ClinicDB": test, "CVC-ColonDB": range(1, 381),
        "ETIS-LaribPolypDB": range(1, 197), "Kvasir": map(kvasir_name, range(900, 1000)),
    }
    with zipfile.ZipFile(out / "TestDataset.zip", "w", zipfile.ZIP_STORED) as z:
        z.writestr("TestDataset/STAND-IN.txt", NOTE)
        for s, stems in names.items():
            for n, name in enumerate(stems):
                size = SIZES.get(s, KVASIR[n % 5])
                for folder, data in zip(("images", "masks"), polyp(10_000 + n, size, full)):
                    z.writestr(f"TestDataset/{s}/{folder}/{name}.png", data)
            z.writestr(f"__MACOSX/TestDataset/{s}/._images", b"\0")
    return [out / "TrainDataset.zip", out / "TestDataset.zip"]


def vit_b(path: Path, full: bool = False, seed: int = 0) -> Path:
    "A ViT-B checkpoint: every official name and shape, random values; the small file holds one row of each tensor."
    import segment_anything

    generator, state = torch.Generator().manual_seed(seed), {}
    with torch.device("meta"):
        official = segment_anything.build_sam_vit_b()
    for name, t in official.state_dict().items():
        norm = "norm" in name or name.split(".")[-2] in ("1", "4") and t.ndim == 1
        row = torch.randn(t.shape if full else t.shape[-1:], generator=generator) * 0.02
        row += norm and name.endswith("weight")
        state[name] = row if full else row.expand(t.shape)
    torch.save(state, path)
    return path


def weights(out: Path, full: bool = False) -> list:
    return [vit_b(out / f, full, seed) for seed, f in enumerate(("sam_vit_b_01ec64.pth", "medsam_vit_b.pth"))]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path)
    p.add_argument("--full", action="store_true", help="the official sizes")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for make in (promise12, pranet, weights):
        for path in make(args.out, args.full):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
