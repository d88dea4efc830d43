"""A CA, and a certificate each for a broker, a device and an aggregator, as openssl makes them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_WAIT_S = 20.0


def make_certificates(folder: Path, *, address: str = "127.0.0.1") -> Path:
    """ca.pem; broker, d0 and hub with .pem and .key. The broker is localhost and `address`. -> the folder."""
    if shutil.which("openssl") is None:
        assert not os.environ.get("CI"), "in CI nothing is left out, but: no openssl command"
        pytest.skip("no openssl command (Debian: apt-get install openssl)")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA")
    (folder / "names").write_text(f"subjectAltName=DNS:localhost,IP:{address}")
    sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    for name in ("broker", "d0", "hub"):
        _openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *sign, "-out", f"{name}.pem")
    return folder


def client_options(folder: Path, name: str) -> list[str]:
    """`--cafile --cert --key`, as `potstill edge run` and `potstill broker run` take them."""
    return [
        "--cafile",
        str(folder / "ca.pem"),
        "--cert",
        str(folder / f"{name}.pem"),
        "--key",
        str(folder / f"{name}.key"),
    ]


def listener(folder: Path) -> str:
    """Lines of mosquitto's configuration: TLS with client certificates."""
    return "\n".join(
        [
            f"cafile {folder}/ca.pem",
            f"certfile {folder}/broker.pem",
            f"keyfile {folder}/broker.key",
            "require_certificate true",
            "use_identity_as_username true",
        ]
    )


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=_WAIT_S)
