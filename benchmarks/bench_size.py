"""MiB that a device's installation takes on disk: the wheel of this tree with nothing, [onnx] and [tflite].

    python benchmarks/bench_size.py [--extras "" onnx tflite]

Each is installed with pip into a folder of its own (--target --no-compile: no .pyc), then its files are added up, as
`du --apparent-size` does. The interpreter and its standard library, which every Raspberry Pi OS has, are not counted.
Needs a package index and about a minute; `make bench` runs it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET_MIB = {"": 60, "onnx": 150}
LARGEST = 6


def build_wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    return next(folder.glob("potstill-*.whl"))


def install(wheel: Path, extra: str, folder: Path) -> None:
    what = f"{wheel}[{extra}]" if extra else str(wheel)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*command, "--target", str(folder), what], check=True)


def size_mib(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.lstat().st_size for file in files) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="*", default=["", "onnx", "tflite"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="potstill-size-") as folder:
        base = Path(folder)
        wheel = build_wheel(base)
        print(f"{wheel.name}: {size_mib(wheel):.2f} MiB")
        print("installed                      MiB   target   largest parts")
        for extra in options.extras:
            target = base / f"with-{extra or 'nothing'}"
            install(wheel, extra, target)
            sizes = sorted(((size_mib(part), part.name) for part in target.iterdir()), reverse=True)
            largest = ", ".join(f"{name} {mib:.1f}" for mib, name in sizes[:LARGEST])
            name = f"potstill[{extra}]" if extra else "potstill (numpy alone)"
            print(f"{name:<24} {sum(mib for mib, _ in sizes):9.1f} {TARGET_MIB.get(extra, '-')!s:>8}   {largest}")


if __name__ == "__main__":
    main()
