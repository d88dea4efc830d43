"""A device's root file system, for arm64 or amd64, made from Debian packages and wheels without running any of it.

Three layers, each kept in the user's cache under a key of all that it was made from, so that the second time costs
nothing: Debian's packages (unpacked, never configured: mmdebstrap's variant `extract`), the wheels the client needs,
and the client itself. A root is the three put together; the files of the first two are hard links into the cache.

On two busy cores it takes 19 s for arm64 with nothing in the cache, 0.6 s from it (docs/emulate-arm.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from firmware_profiles.cpuinfo import cpuinfo
from firmware_profiles.load import load_profile

PACKAGES = (
    "python3-minimal",
    "libpython3-stdlib",
    "libstdc++6",  # onnxruntime and LiteRT are C++
    "ca-certificates",
    "coreutils",
    "dash",
    "busybox-static",  # the init of a whole machine, and of its initial RAM disk
    "iproute2",  # tc and ip: the link of a whole machine, and of a composed device
)
"""What Debian gives a device; apt adds what they depend on."""
CLIENT = ("numpy", "paho-mqtt", "click")
"""The client's own dependencies (pyproject.toml), without a runtime."""
RUNTIMES = {"onnx": ("onnxruntime",), "tflite": ("ai-edge-litert",), "numpy": ()}
"""What each runtime of `potstill edge run --runtime` needs on top."""
_NOT_FOR_A_DEVICE = ("dev/*", "usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt")
SITE = "opt/potstill"
"""Where wheels and client lie in the root; PYTHONPATH names it."""
DEVICE_UID = 1000
"""Who the client runs as; not root."""
_LEAST_GLIBC = 17
"""manylinux2014 is glibc 2.17: no wheel in use is older."""
_COMMAND_S = 900
"""For one download at the most; on a slow line the Debian packages (40 MB) take minutes."""


class ImageError(RuntimeError):
    """A root or an image cannot be made; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    debian: str
    """As Debian and the container engines name it."""
    machine: str
    """As `uname -m` and wheels name it."""

    @property
    def native(self) -> bool:
        """True where this machine runs it without an emulator."""
        return platform.machine() == self.machine


ARM64 = Architecture(debian="arm64", machine="aarch64")
AMD64 = Architecture(debian="amd64", machine="x86_64")
ARCHITECTURES = {"arm64": ARM64, "amd64": AMD64}


def host_architecture() -> Architecture:
    """This machine's own. Raises ImageError on anything but arm64 and amd64."""
    for architecture in ARCHITECTURES.values():
        if architecture.native:
            return architecture
    raise ImageError(f"no images for {platform.machine()}: potstill makes them for {', '.join(ARCHITECTURES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A folder that holds a device's whole file system, owned by whoever made it."""

    folder: Path
    architecture: Architecture
    key: str
    """Of all that is in it."""

    @property
    def python(self) -> str:
        """Of its interpreter: "3.11"."""
        return python_version(self.folder)


def cache_folder() -> Path:
    """Of this user: XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "potstill" / "roots"


def device_root(
    architecture: Architecture = ARM64, *, runtime: str = "onnx", cache: Path | None = None, refresh: bool = False
) -> Root:
    """The root of a device with the client and one runtime in it, from the cache where it is there.

    `refresh` fetches Debian's and the wheels' newest. Raises ImageError.
    """
    if runtime not in RUNTIMES:
        raise ImageError(f"no images with runtime {runtime!r}: one of {', '.join(RUNTIMES)}")
    store = _Store(folder=cache or cache_folder(), refresh=refresh)
    sources = debian_sources()
    base = store.layer(
        f"debian-{architecture.debian}",
        (architecture.debian, PACKAGES, sources),
        lambda folder: _unpack_debian(folder, architecture, sources),
    )
    wanted = requirements(runtime, python_version(base))
    site = store.layer(
        f"wheels-{architecture.debian}",
        (base.name, wanted),
        lambda folder: _unpack_wheels(folder, architecture, base, wanted),
    )
    client = client_files()
    root = _Store(folder=store.folder, refresh=False).layer(
        f"root-{architecture.debian}",
        (base.name, _stamp(base), site.name, _stamp(site), _digest(client)),
        lambda folder: _put_together(folder, base, site, client),
    )
    return Root(folder=root, architecture=architecture, key=root.name)


def kernel(architecture: Architecture, modules: Sequence[str], *, cache: Path | None = None) -> Path:
    """A folder with Debian's kernel for virtual machines, `vmlinuz-*`, and of its modules these that are not built in.

    Raises ImageError.
    """
    store = _Store(folder=cache or cache_folder(), refresh=False)
    sources = debian_sources()
    package = f"linux-image-cloud-{architecture.debian}"
    return store.layer(
        f"kernel-{architecture.debian}",
        (package, tuple(modules), sources),
        lambda folder: _unpack_kernel(folder, architecture, package, modules, sources),
    )


# ---------------------------------------------------------------- the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class _Store:
    folder: Path
    refresh: bool

    def layer(self, name: str, made_from: object, make: Callable[[Path], None]) -> Path:
        """The folder NAME-KEY; if missing, made by `make` in another place, then renamed: it is whole or not there."""
        key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
        kept = self.folder / f"{name}-{key}"
        if kept.is_dir() and not self.refresh:
            return kept
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise ImageError(f"{self.folder}: {problem.strerror}; set XDG_CACHE_HOME to a folder of yours") from problem
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=self.folder) as scratch:
            fresh = Path(scratch) / "layer"
            fresh.mkdir(mode=0o755)
            make(fresh)
            if kept.is_dir():
                kept.rename(Path(scratch) / "old")
            fresh.rename(kept)
        return kept


def _stamp(folder: Path) -> int:
    """Another one after a refresh."""
    return folder.stat().st_mtime_ns


def _digest(files: Iterable[tuple[str, bytes]]) -> str:
    total = hashlib.sha256()
    for name, data in files:
        total.update(f"{name}\0{len(data)}\0".encode() + data)
    return total.hexdigest()


# ---------------------------------------------------------------- Debian


def debian_sources() -> tuple[str, ...]:
    """Lines of Debian's archive, `deb URI SUITE COMPONENT`, as this machine's own apt reads its sources.

    Raises ImageError where apt or Debian's lines are missing.
    """
    told = run_tool(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)",
            "Created-By: Packages",
        ],
        package="apt",
    )
    suite = _codename()
    rows = [line.split() for line in told.splitlines()]
    found = dict.fromkeys(
        f"deb {row[0]} {row[1]} {row[2]}"
        for row in rows
        if len(row) == 4 and row[3] == "Debian" and (row[1] == suite or row[1].startswith(f"{suite}-"))
    )
    if not found:
        raise ImageError(
            f"this machine's apt knows no Debian archive of its release ({suite or 'unknown'}): device images are made "
            "of Debian packages, so make them on a Debian machine (and run apt-get update first)"
        )
    return tuple(found)


def _codename() -> str:
    release = platform.freedesktop_os_release()
    return release.get("VERSION_CODENAME", "")


def _unpack_debian(folder: Path, architecture: Architecture, sources: Sequence[str]) -> None:
    """Packages unpacked, none configured: what their scripts would do and a device needs is done here."""
    with tempfile.TemporaryDirectory() as scratch:
        archive = _fetch(Path(scratch), architecture, PACKAGES, sources)
        left_out = [f"--exclude=./{name}" for name in _NOT_FOR_A_DEVICE]
        into = ["--directory", str(folder), "--no-same-owner"]
        run_tool(["tar", "--extract", "--file", str(archive), *into, *left_out], package="tar")
    for name in ("proc", "sys", "dev", "run", "tmp", "mnt", "root"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "tmp").chmod(0o1777)
    # For `qemu-aarch64 -L ROOT`, which looks here first; a container mounts its own /proc over it.
    (folder / "proc/cpuinfo").write_text(cpuinfo(load_profile("pi-4b")))
    etc = folder / "etc"
    (etc / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\ndevice:x:{DEVICE_UID}:{DEVICE_UID}::/tmp:/bin/sh\n")
    (etc / "group").write_text(f"root:x:0:\ndevice:x:{DEVICE_UID}:\n")
    authorities = sorted((folder / "usr/share/ca-certificates").rglob("*.crt"))
    (etc / "ssl/certs").mkdir(parents=True, exist_ok=True)
    (etc / "ssl/certs/ca-certificates.crt").write_bytes(b"".join(path.read_bytes() for path in authorities))
    _compile(folder / f"usr/lib/python{python_version(folder)}", python_version(folder))


def _fetch(folder: Path, architecture: Architecture, packages: Sequence[str], sources: Sequence[str]) -> Path:
    """An archive of the packages' files and of those they depend on."""
    archive = folder / "debian.tar"
    suite = sources[0].split()[2].partition("-")[0]
    wanted = [f"--architectures={architecture.debian}", "--variant=extract", f"--include={','.join(packages)}"]
    run_tool(["mmdebstrap", "--quiet", *wanted, suite, str(archive), *sources], package="mmdebstrap")
    return archive


def _unpack_kernel(
    folder: Path, architecture: Architecture, package: str, modules: Sequence[str], sources: Sequence[str]
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        archive = _fetch(Path(scratch), architecture, (package,), sources)
        wanted = ["--wildcards", "*/boot/vmlinuz-*", *(f"*/{module}.ko" for module in modules)]
        flat = ["--transform=s,.*/,,", "--directory", str(folder), "--no-same-owner"]
        # 2: of the modules asked for some are built in.
        run_tool(["tar", "--extract", "--file", str(archive), *flat, *wanted], package="tar", fine=(0, 2))
    if len(list(folder.glob("vmlinuz-*"))) != 1:
        raise ImageError(f"no kernel in Debian's {package}")


def python_version(root: Path) -> str:
    """Of the root's interpreter: "3.11". Raises ImageError where there is none."""
    for path in sorted((root / "usr/bin").glob("python3.*")):
        if found := re.fullmatch(r"python(3\.\d+)", path.name):
            return found[1]
    raise ImageError(f"{root}: no Python in it; remove that folder, it will be made again")


def glibc_minor(root: Path, architecture: Architecture) -> int:
    """36 for glibc 2.36, from what the library says of itself."""
    for library in (root / "usr/lib", root / "lib"):
        for path in library.glob(f"{architecture.machine}-linux-gnu/libc.so.6"):
            if found := re.search(rb"GNU C Library .{0,80}? release version 2\.(\d+)", path.read_bytes()):
                return int(found[1])
    raise ImageError(f"{root}: no C library in it; remove that folder, it will be made again")


# ---------------------------------------------------------------- wheels


def requirements(runtime: str, image_python: str) -> tuple[str, ...]:
    """What the client needs with this runtime: the versions of this machine where it runs the same Python.

    So a fleet of mixed back ends trains with one version of each library.
    """
    names = (*CLIENT, *RUNTIMES[runtime])
    if image_python != ".".join(map(str, sys.version_info[:2])):
        return names
    return tuple(map(_as_here, names))


def _as_here(name: str) -> str:
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:
        return name


def _unpack_wheels(folder: Path, architecture: Architecture, base: Path, wanted: Sequence[str]) -> None:
    """Wheels of the image's platform, unpacked by this machine's pip through its own configuration."""
    python = python_version(base)
    newest = glibc_minor(base, architecture)
    # pip does not infer that a newer glibc takes wheels of an older one: every tag is named.
    tags = [f"manylinux_2_{minor}_{architecture.machine}" for minor in range(newest, _LEAST_GLIBC - 1, -1)]
    platforms = [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{architecture.machine}")]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", f"--target={folder}"]
    built = ["--only-binary=:all:", *platforms, "--implementation=cp", f"--python-version={python}"]
    run_tool([*install, *built, *wanted], package="pip")
    _compile(folder, python)


def _compile(folder: Path, python: str) -> None:
    """Byte code beside the sources, where this machine's Python writes what the image's reads.

    On a read-only root it would be made again at every start, which is slow under emulation.
    """
    if python == ".".join(map(str, sys.version_info[:2])):
        words = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(folder)]
        subprocess.run(
            words, check=False, capture_output=True, timeout=_COMMAND_S
        )  # some wheels hold broken test files


# ---------------------------------------------------------------- the client


def client_files() -> list[tuple[str, bytes]]:
    """(path, bytes) of the client alone: `edge`, `firmware_profiles` and the command, nothing of the workstation."""
    files = []
    for package in ("edge", "firmware_profiles"):
        folder = _place(package)
        paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        files += [(f"{package}/{path.relative_to(folder)}", path.read_bytes()) for path in paths]
    files.append(("potstill.py", (_place("edge").parent / "potstill.py").read_bytes()))
    release = version("potstill")
    metadata = f"Metadata-Version: 2.1\nName: potstill\nVersion: {release}\n"
    files.append((f"potstill-{release}.dist-info/METADATA", metadata.encode()))
    return sorted(files)


def _place(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None, f"{package} is part of this installation"
    assert spec.origin is not None, f"{package} has an __init__.py"
    return Path(spec.origin).parent


def _put_together(folder: Path, base: Path, site: Path, client: Iterable[tuple[str, bytes]]) -> None:
    shutil.copytree(base, folder, symlinks=True, dirs_exist_ok=True, copy_function=_link)
    place = folder / SITE
    shutil.copytree(site, place, symlinks=True, copy_function=_link)
    for name, data in client:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for package in ("edge", "firmware_profiles"):
        _compile(place / package, python_version(folder))


def _link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)


# ---------------------------------------------------------------- programs of this machine


def run_tool(words: Sequence[str], *, package: str, timeout_s: float = _COMMAND_S, fine: tuple[int, ...] = (0,)) -> str:
    """What the program printed, when its exit code is a `fine` one.

    Raises ImageError that says what it printed on failure, or what package it is in.
    """
    try:
        done = subprocess.run(words, capture_output=True, check=False, timeout=timeout_s)
    except (FileNotFoundError, PermissionError) as problem:
        raise ImageError(f"no {words[0]} on this machine (Debian: apt-get install {package})") from problem
    except subprocess.TimeoutExpired as problem:
        raise ImageError(f"{words[0]} did not end within {timeout_s:g} s; is the network there?") from problem
    if done.returncode not in fine:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-6:]
        raise ImageError(f"{words[0]} ended with code {done.returncode}:\n  " + "\n  ".join(said))
    return done.stdout.decode(errors="replace")
