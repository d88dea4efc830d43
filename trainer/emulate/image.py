"""The client's container image, built with podman or docker from a device's root, without a registry.

Two layers: Debian and wheels, which the engine keeps from build to build, and the client, 1 MB.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from trainer.emulate.rootfs import SITE, Architecture, ImageError, Root, run_tool

REPOSITORY = "localhost/potstill-device"
"""Of the images; a name under localhost is never looked for in a registry."""
ENGINES = ("podman", "docker")
BUILD_S = 600
"""12 s with podman on two busy cores."""
_TAR_FINE = (0, 1)
"""1 is "file changed as we read it", which a new hard link to a file of the cache is to tar; contents never change."""
_CLIENT = ("edge", "firmware_profiles", "potstill.py", "potstill-*.dist-info")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """podman or docker, by its command."""

    name: str

    def run(self, *words: str, timeout_s: float = 60.0) -> str:
        """What the engine printed. Raises ImageError."""
        return run_tool([self.name, *words], package=_DEBIAN_PACKAGES[self.name], timeout_s=timeout_s)

    def has(self, reference: str) -> bool:
        try:
            self.run("image", "inspect", "--format", "{{.Id}}", reference)
        except ImageError:
            return False
        return True


_DEBIAN_PACKAGES = {"podman": "podman runc catatonit netavark", "docker": "docker.io"}


def find_engine(name: str | None = None) -> Engine:
    """The one named, or the first that is installed. Raises ImageError."""
    if name is not None and name not in ENGINES:
        raise ImageError(f"no container engine {name!r}: one of {', '.join(ENGINES)}")
    for candidate in ENGINES if name is None else (name,):
        if shutil.which(candidate):
            return Engine(name=candidate)
    packages = " or ".join(_DEBIAN_PACKAGES[each] for each in (ENGINES if name is None else (name,)))
    raise ImageError(f"no {name or 'podman or docker'} on this machine (Debian: apt-get install {packages})")


def reference(root: Root) -> str:
    """The image's name: the same for the same content."""
    return f"{REPOSITORY}:{root.key.removeprefix('root-')}"


def containerfile() -> str:
    """Of the client: what makes an image of `system.tar` and `client.tar`."""
    return files("firmware_profiles").joinpath("image/Containerfile").read_text(encoding="utf-8")


def build_image(engine: Engine, root: Root, *, context: Path | None = None) -> str:
    """The image's name, built where the engine has not got it. Raises ImageError.

    `context`: an empty folder to build in, which is kept, so that the image can be built elsewhere from it.
    """
    name = reference(root)
    if context is None and engine.has(name):
        return name
    with tempfile.TemporaryDirectory() as scratch:
        folder = context or Path(scratch)
        write_context(root, folder)
        engine.run(*_build_words(root.architecture, name, folder), timeout_s=BUILD_S)
    return name


def _build_words(architecture: Architecture, name: str, folder: Path) -> Sequence[str]:
    platform = f"linux/{architecture.debian}"
    file = ("--file", str(folder / "Containerfile"))
    return ("build", "--quiet", "--platform", platform, "--network", "none", "--tag", name, *file, str(folder))


def write_context(root: Root, folder: Path) -> None:
    """What `podman build` or `docker build` needs: the Containerfile and two archives. Raises ImageError."""
    if any(folder.iterdir()):
        raise ImageError(f"{folder} is not empty: name another folder")
    (folder / "Containerfile").write_text(containerfile(), encoding="utf-8")
    client = [f"./{SITE}/{name}" for name in _CLIENT]
    # The same bytes from the same content: the engine finds its layer again.
    same = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]
    begin = ["tar", "--create", *same, "--directory", str(root.folder)]
    system = ["--file", str(folder / "system.tar"), *(f"--exclude={name}" for name in client), "."]
    run_tool([*begin, *system], package="tar", fine=_TAR_FINE)
    ours = [f"./{path.relative_to(root.folder)}" for name in _CLIENT for path in (root.folder / SITE).glob(name)]
    run_tool([*begin, "--file", str(folder / "client.tar"), *sorted(ours)], package="tar", fine=_TAR_FINE)
