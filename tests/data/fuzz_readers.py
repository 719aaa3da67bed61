"""Feed damaged files to every reader: ``python tests/data/fuzz_readers.py --seconds 600 --seed 1``.

Small files of every format are mutated (bits, integers, lengths, blocks, truncation, splices) and read in a
child process. Each must give an image or a `UserError` that names it: no other exception, no crash, no
hang, no more memory than the bound. One JSON object is printed; the exit code is 1 when there was a
problem, and the files at fault are kept in ``--keep``.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings

import h5py
import numpy as np
import pydicom
import scipy.io
import tifffile
from dicom_files import write, write_deflated, write_encapsulated, write_run_length
from PIL import Image
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit

HANG_SECONDS = 10
GROWTH_MEGABYTES = 256  # four times what a small file may decode to
INTERESTING = (0, 1, 2, 3, 4, 5, 8, 16, 32, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
#: What may be wanted of a file: a page or frame, or one of the arrays a, c and g/a.
PARTS = {
    ".tif": ("", "#0"),
    ".dcm": ("", "#0"),
    ".npz": ("#a", ""),
    ".mat": ("#a", ""),
    ".h5": ("#g/a[1]", "#c", ""),
}
#: Test files of pydicom that hold no image to begin with.
UNUSED = ("Expl", "JPEG", "JPG", "UN_", "bad", "empty", "meta", "nested", "no_", "priv", "report", "rtplan", "rtstruct",
          "test", "MR_truncated", "MR_small_jpeg", "SC_rgb_jls", "SC_rgb_jpeg_gdcm", "SC_rgb_rle_32")  # fmt: skip


def picture(dtype="uint8", channels=1, size=(33, 21)):
    """Smooth and noisy parts, so that codecs have something to do."""
    rng = np.random.default_rng(channels)
    top = 200 if dtype == "uint8" else 60000
    base = np.linspace(0, top, size[0] * size[1] * channels).reshape(*size, channels)
    array = (base + rng.integers(0, 50, base.shape)).astype(dtype)
    return array[..., 0] if channels == 1 else array


def pillow(array, kind, **options):
    stream = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(stream, kind, **options)
    return stream.getvalue()


def write_seeds(folder):
    """One small valid file of every kind."""
    grey, colour, deep = picture(), picture("uint8", 3), picture("uint16")
    rasters = {
        "grey.png": (grey, {}), "colour.png": (colour, {}), "deep.png": (deep, {}),
        "palette.png": (Image.fromarray(colour).quantize(16), {}),
        "alpha.png": (Image.fromarray(colour).convert("RGBA"), {}),
        "grey.jpg": (grey, {}), "colour.jpg": (colour, {"progressive": True}), "grey.bmp": (grey, {}),
        "colour.bmp": (colour, {}),
        "lzw.tif": (deep, {"compression": "tiff_lzw"}), "jpeg.tif": (colour, {"compression": "jpeg"}),
        "fax.tif": (grey > 99, {"compression": "group4"}), "zstd.tif": (grey, {"compression": "zstd"}),
        "palette.tif": (Image.fromarray(colour).quantize(16), {}),
    }  # fmt: skip
    kinds = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".tif": "TIFF"}
    for name, (array, options) in rasters.items():
        (folder / name).write_bytes(pillow(array, kinds[pathlib.Path(name).suffix], **options))
    tifffile.imwrite(folder / "plain.tif", deep)
    tifffile.imwrite(folder / "big.tif", colour, bigtiff=True, rowsperstrip=5)
    tifffile.imwrite(folder / "tiles.tif", colour, tile=(16, 16), compression="zlib", predictor=2)
    tifffile.imwrite(folder / "float.tif", picture("float32"), compression="zlib", predictor=None, byteorder=">")
    tifffile.imwrite(folder / "stack.tif", np.stack([deep, deep]), photometric="minisblack")
    np.save(folder / "grey.npy", deep)
    np.savez_compressed(folder / "two.npz", a=colour, b=np.float32(1))
    scipy.io.savemat(folder / "packed.mat", {"a": deep, "b": {"c": 1}}, do_compression=True)
    scipy.io.savemat(folder / "plain.mat", {"a": picture("float64"), "t": "text"})
    with h5py.File(folder / "grouped.h5", "w") as file:
        file.create_dataset("g/a", data=np.stack([deep] * 3), chunks=(1, 16, 16), compression="gzip", shuffle=True)
        file["g/b"] = 1.0
        file["c"] = colour
    write_dicom_seeds(folder, grey, colour, deep)


def write_dicom_seeds(folder, grey, colour, deep):
    """One file for each way in which pixels are stored, and the small ones that pydicom ships."""
    write(
        folder / "plain.dcm",
        deep,
        stored=16,
        WindowCenter=3000,
        WindowWidth=2000,
        RescaleSlope="2",
        RescaleIntercept="-5",
    )
    write(folder / "colour.dcm", colour, photometric="RGB")
    write(folder / "implicit.dcm", deep, syntax=ImplicitVRLittleEndian, PixelPaddingValue=3)
    write(folder / "big.dcm", deep, syntax=ExplicitVRBigEndian)
    write(folder / "frames.dcm", np.stack([grey, grey]), frames=2)
    write_run_length(folder / "rle.dcm", deep)
    write_deflated(folder / "deflated.dcm", 33, 21, 33 * 21 * 2)
    write_encapsulated(folder / "jpeg.dcm", grey, [pillow(grey, "JPEG")], JPEGBaseline8Bit)
    write_encapsulated(folder / "j2k.dcm", deep, [pillow(deep, "JPEG2000", no_jp2=True)], JPEG2000Lossless)
    for path in (pathlib.Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"):
        if path.stat().st_size < 12_000 and not path.name.startswith(UNUSED):
            (folder / f"pydicom_{path.name}").write_bytes(path.read_bytes())


# ---- mutation ------------------------------------------------------------------------------------


def place(rng, raw):
    """Headers are hit more often than pixels."""
    return rng.randrange(min(len(raw), rng.choice((64, 512, 4096, len(raw)))) or 1)


def flip(rng, raw):
    raw[place(rng, raw)] ^= 1 << rng.randrange(8)


def integer(rng, raw):
    width, value = rng.choice((1, 2, 4, 8)), rng.choice(INTERESTING)
    at = place(rng, raw)
    raw[at : at + width] = (value % 256**width).to_bytes(width, rng.choice(("little", "big")))


def noise(rng, raw):
    at = place(rng, raw)
    raw[at : at + rng.randrange(1, 16)] = rng.randbytes(rng.randrange(1, 16))


def cut(rng, raw):
    del raw[rng.randrange(len(raw)) :]


def remove(rng, raw):
    at = place(rng, raw)
    del raw[at : at + rng.randrange(1, 64)]


def repeat(rng, raw):
    at, count = place(rng, raw), rng.randrange(1, 64)
    raw[at:at] = raw[at : at + count] * rng.choice((1, 2, 50))


def mutated(rng, seeds):
    """A damaged copy of one seed, with its name."""
    kind = rng.choice(sorted({pathlib.Path(name).suffix for name in seeds}))
    name = rng.choice(sorted(name for name in seeds if name.endswith(kind)))
    raw = bytearray(seeds[name])
    if rng.random() < 0.05:  # the head of one file on the body of another
        other = seeds[rng.choice(sorted(seeds))]
        at = rng.randrange(len(raw))
        raw[at:] = other[at:]
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if raw:
            rng.choice((flip, flip, integer, integer, integer, noise, cut, remove, repeat))(rng, raw)
    return name, bytes(raw)


# ---- one process that reads, one that watches it -------------------------------------------------


def megabytes(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field))


def attempt(path, rng):
    """Read one file in one of the ways a user may; True when it gave something."""
    from medgen_jax.core.errors import UserError
    from medgen_jax.data.images import Range, View, read_array, read_header, read_image, read_range

    view = rng.choice((View(), View(range=Range(0, 255), nan="low"), View(window="full", bits=8)))
    part = rng.choice(PARTS.get(path.suffix, ("",)))
    for read in (read_header, read_range, read_image):
        try:
            read(f"{path}{part}", view=view)
        except UserError as error:
            if path.name not in str(error):
                raise AssertionError(f"the message does not name the file: {error}") from error
            if path.suffix not in (".npy", ".npz", ".mat", ".h5"):
                return False
            break
    else:
        return True
    try:
        read_array(f"{path}{part}", max_bytes=1 << 27)
    except UserError:
        return False
    return True


def hung(signum, frame):
    raise TimeoutError(f"longer than {HANG_SECONDS} s")


def work(folder, seconds, seed, first):
    """Read mutated files until the time is over; a line before each file and for each problem."""
    warnings.simplefilter("ignore")
    seeds = {path.name: path.read_bytes() for path in sorted((folder / "seeds").iterdir())}
    signal.signal(signal.SIGALRM, hung)
    end, number = time.monotonic() + seconds, first
    while time.monotonic() < end:
        rng = random.Random(seed * 1_000_003 + number)
        name, raw = mutated(rng, seeds)
        path = folder / f"case-{number % 2}-{name}"
        path.write_bytes(raw)
        print(json.dumps({"case": number, "file": path.name}), flush=True)
        problem, accepted = None, False
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = megabytes("VmRSS")
        # The alarm waits for compiled code to return; this does not.
        faulthandler.dump_traceback_later(3 * HANG_SECONDS, exit=True)
        signal.alarm(HANG_SECONDS)
        try:
            accepted = attempt(path, rng)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        signal.alarm(0)
        growth = megabytes("VmHWM") - before
        if growth > GROWTH_MEGABYTES:
            problem = f"took {growth} MB"
        print(json.dumps({"done": number, "accepted": accepted, "problem": problem, "growth": growth}), flush=True)
        path.unlink()
        number += 1
    faulthandler.cancel_dump_traceback_later()


def watch(seconds, seed, keep):
    """Run workers until the time is over; a worker that dies is replaced."""
    found = {"cases": 0, "accepted": 0, "refused": 0, "largest_growth_megabytes": 0, "problems": []}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "seeds").mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_seeds(folder / "seeds")
        end, number = time.monotonic() + seconds, 0
        while (left := end - time.monotonic()) > 0:
            command = [sys.executable, __file__, "--worker", name, "--seconds", str(left), "--seed", str(seed)]
            child = subprocess.Popen([*command, "--first", str(number)], stdout=subprocess.PIPE, text=True)
            file, problem = "", None
            for line in child.stdout:
                event = json.loads(line)
                if "case" in event:
                    number, file, problem = event["case"], event["file"], "died"
                    continue
                problem = event["problem"]
                found["cases"] += 1
                found["accepted" if event["accepted"] else "refused"] += 1
                found["largest_growth_megabytes"] = max(found["largest_growth_megabytes"], event["growth"])
                if problem:
                    found["problems"].append({"case": number, "file": file, "problem": problem})
            code = child.wait()
            if code:
                found["problems"].append(
                    {"case": number, "file": file, "problem": f"the reader ended with code {code}"}
                )
            number += 1
        for problem in found["problems"]:
            if keep:
                rng = random.Random(seed * 1_000_003 + problem["case"])
                seeds = {path.name: path.read_bytes() for path in sorted((folder / "seeds").iterdir())}
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{problem['case']}-{problem['file']}").write_bytes(mutated(rng, seeds)[1])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the files at fault")
    parser.add_argument("--worker", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.seconds, options.seed, options.first)
        return 0
    found = watch(options.seconds, options.seed, options.keep)
    print(json.dumps(found, indent=1))
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
    sys.exit(main())
