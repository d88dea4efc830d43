"""Device roots: what is asked of Debian and pip, what is kept, and that the client runs in one as real ARM code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.emulate import rootfs

QEMU = "qemu-aarch64-static"


def test_the_client_is_the_device_side_alone() -> None:
    names = [name for name, _ in rootfs.client_files()]
    assert "edge/client.py" in names
    assert "firmware_profiles/devices/pi-zero-2-w.toml" in names
    assert not [name for name in names if name.startswith(("trainer/", "broker/", "tests/")) or "__pycache__" in name]


def test_requirements_are_this_machines_versions_on_the_same_python_and_free_on_another() -> None:
    here = rootfs.requirements("onnx", "{}.{}".format(*sys.version_info))
    assert [name.partition("==")[0] for name in here] == ["numpy", "paho-mqtt", "click", "onnxruntime"]
    assert all("==" in name for name in here)
    assert rootfs.requirements("numpy", "3.8") == rootfs.CLIENT


@pytest.mark.tools("mmdebstrap")
def test_the_archive_is_the_one_of_this_machines_apt() -> None:
    told = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, check=True)
    addresses = set(told.stdout.decode().split())
    for line in rootfs.debian_sources():
        word, address, _suite, _component = line.split()
        assert word == "deb"
        assert address in addresses


def test_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rootfs.ImageError, match="one of onnx, tflite, numpy"):
        rootfs.device_root(runtime="torch", cache=tmp_path)


def test_a_layer_is_made_once_and_never_left_half_made(tmp_path: Path) -> None:
    store = rootfs._Store(folder=tmp_path, refresh=False)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise rootfs.ImageError("no network")

    with pytest.raises(rootfs.ImageError, match="no network"):
        store.layer("x", 1, fail)
    assert not list(tmp_path.iterdir())
    made = store.layer("x", 1, lambda folder: (folder / "whole").touch())
    assert store.layer("x", 1, fail) == made, "kept, so not made again"
    assert store.layer("x", 2, lambda _: None) != made, "another key, another folder"


def test_a_program_that_is_not_there_is_named_with_its_package() -> None:
    with pytest.raises(rootfs.ImageError, match="apt-get install mmdebstrap"):
        rootfs.run_tool(["no-such-program"], package="mmdebstrap")


@pytest.mark.root
@pytest.mark.tools("mmdebstrap", QEMU)
def test_an_arm64_root_holds_the_client_and_runs_it_as_arm_code() -> None:
    root = rootfs.device_root(rootfs.ARM64)
    assert root == rootfs.device_root(rootfs.ARM64), "from the cache"
    assert rootfs.glibc_minor(root.folder, rootfs.ARM64) >= 36
    assert not (root.folder / rootfs.SITE / "trainer").exists()
    assert not (root.folder / rootfs.SITE / "torch").exists()
    code = (
        "import platform, sys, numpy, onnxruntime, edge.client; "
        "print(platform.machine(), sys.version_info[:2], onnxruntime.__version__, 'torch' in sys.modules)"
    )
    environment = {
        "PYTHONHOME": str(root.folder / "usr"),  # the emulator maps the C library's paths, not what Python asks
        "PYTHONPATH": str(root.folder / rootfs.SITE),
        "ORT_DISABLE_TELEMETRY": "1",
    }
    words = [QEMU, "-L", str(root.folder), str(root.folder / "usr/bin/python3"), "-c", code]
    done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    machine, *rest = done.stdout.split()
    assert machine == "aarch64"
    assert rest[-1] == "False"
