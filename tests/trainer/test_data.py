"""Data sets from real files, whole and damaged."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.data import DataError, load_dataset, load_digits, load_mnist, load_npz, read_idx, read_shard


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def mnist_like(folder: Path, part: str, count: int, *, end: str = "") -> None:
    """Official names and layout; image number i is filled with i % 251, its label is i % 10."""
    numbers = np.arange(count)
    images = np.broadcast_to((numbers % 251).astype(np.uint8)[:, None, None], (count, 28, 28))
    for name, values in (("images-idx3", images), ("labels-idx1", (numbers % 10).astype(np.uint8))):
        data = idx(np.ascontiguousarray(values))
        (folder / f"{part}-{name}-ubyte{end}").write_bytes(gzip.compress(data, 1) if end else data)


def device_file(path: Path, **changes: object) -> None:
    arrays: dict[str, object] = {
        "train_x": np.ones((6, 2, 3), np.float16),
        "train_y": np.array([0, 1, 2, 0, 1, 2], np.uint8),
        "test_x": np.zeros((2, 2, 3), np.float16),
        "test_y": np.array([2, 0]),
    }
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})  # type: ignore[arg-type]


class TestDigits:
    def test_is_the_same_in_every_run(self) -> None:
        first, second = load_digits(), load_digits()
        assert (len(first.pool), len(first.test)) == (1000, 797)
        assert first.input_shape == (1, 8, 8)
        assert first.pool.x.max() * first.scale == 1.0
        assert np.array_equal(first.pool.x, second.pool.x)
        digest = hashlib.sha256(first.test.x.tobytes() + first.test.y.tobytes()).hexdigest()
        assert digest[:16] == "e70111e589b3441a"

    def test_are_those_that_scikit_learn_loads(self) -> None:
        from sklearn.datasets import load_digits as theirs

        x, y = theirs(return_X_y=True)
        data = load_digits()
        order = np.random.default_rng(12345).permutation(len(x))
        assert np.array_equal(np.concatenate([data.pool.x, data.test.x]).reshape(-1, 64), x[order])
        assert np.array_equal(np.concatenate([data.pool.y, data.test.y]), y[order])

    def test_absent_say_what_brings_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "path", [])
        with pytest.raises(DataError, match=r"potstill\[demo\]"):
            load_digits()

    def test_pool_and_test_share_no_image(self) -> None:
        data = load_digits()
        pool = {image.tobytes() for image in data.pool.x}
        assert not any(image.tobytes() in pool for image in data.test.x)


class TestMnist:
    @pytest.mark.parametrize("end", ["", ".gz"])
    def test_t10k_alone(self, tmp_path: Path, end: str) -> None:
        mnist_like(tmp_path, "t10k", 10_000, end=end)
        data = load_mnist(tmp_path)
        order = np.random.default_rng(12345).permutation(10_000)
        assert data.pool.x.shape == (5000, 1, 28, 28)
        assert data.pool.x.dtype == np.uint8
        assert data.pool.x[:, 0, 0, 0].tolist() == (order[:5000] % 251).tolist()
        assert data.test.y.tolist() == (order[6000:] % 10).tolist()

    def test_train_files_are_the_pool_and_the_test_set_stays(self, tmp_path: Path) -> None:
        mnist_like(tmp_path, "t10k", 10_000)
        alone = load_mnist(tmp_path)
        mnist_like(tmp_path, "train", 300)
        both = load_mnist(tmp_path)
        assert len(both.pool) == 300
        assert np.array_equal(both.test.x, alone.test.x)

    def test_names_with_a_dot(self, tmp_path: Path) -> None:
        mnist_like(tmp_path, "t10k", 10_000)
        for path in list(tmp_path.iterdir()):
            path.rename(tmp_path / path.name.replace("-idx", ".idx"))
        assert len(load_mnist(tmp_path).test) == 4000

    def test_missing_files_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no such folder.*t10k-images-idx3-ubyte"):
            load_mnist(tmp_path / "absent")
        with pytest.raises(DataError, match=r"no t10k files.*t10k-labels-idx1-ubyte"):
            load_mnist(tmp_path)
        mnist_like(tmp_path, "t10k", 10)
        (tmp_path / "t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(DataError, match=r"only one of the two t10k files"):
            load_mnist(tmp_path)

    def test_files_of_different_sets(self, tmp_path: Path) -> None:
        mnist_like(tmp_path, "t10k", 10)
        (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(9, np.uint8)))
        with pytest.raises(DataError, match=r"10 images and .* 9 labels"):
            load_mnist(tmp_path)

    def test_a_short_t10k(self, tmp_path: Path) -> None:
        mnist_like(tmp_path, "t10k", 10)
        with pytest.raises(DataError, match=r"10 t10k images, the official file has 10000"):
            load_mnist(tmp_path)

    @pytest.mark.shared
    def test_the_official_files(self, shared_data: Path) -> None:
        data = load_mnist(shared_data / "mnist")
        assert (len(data.pool), len(data.test)) == (5000, 4000)
        images = read_idx(shared_data / "mnist" / "t10k-images-idx3-ubyte.gz", dimensions=3)
        labels = read_idx(shared_data / "mnist" / "t10k-labels-idx1-ubyte.gz", dimensions=1)
        assert hashlib.md5(idx(images), usedforsecurity=False).hexdigest() == "2646ac647ad5339dbf082846283269ea"
        assert hashlib.md5(idx(labels), usedforsecurity=False).hexdigest() == "27ae3e4e09519cfbb04c329615203637"


class TestIdx:
    @pytest.mark.parametrize("cut", [0, 1, 3, 4, 7, 15, 16, 17, 27])
    def test_every_truncation_is_said(self, tmp_path: Path, cut: int) -> None:
        path = tmp_path / "f"
        path.write_bytes(idx(np.arange(12, dtype=np.uint8).reshape(3, 2, 2))[:cut])
        with pytest.raises(DataError, match=str(path)):
            read_idx(path, dimensions=3)

    def test_a_truncated_gzip(self, tmp_path: Path) -> None:
        path = tmp_path / "f.gz"
        path.write_bytes(gzip.compress(idx(np.arange(200, dtype=np.uint8)))[:-12])
        with pytest.raises(DataError, match=r"get the file again"):
            read_idx(path, dimensions=1)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (idx(np.zeros((2, 2), np.uint8)), "starts with 00000802, an IDX file with 00000803"),
            (b"\0\0\x0d\3" + bytes(12), "starts with 00000d03"),
            (b"\0\0\x08\3" + b"\xff" * 12, "not an official file"),
            (idx(np.zeros((2, 2, 2), np.uint8)) + b"x", "8 values expected after the header, more found"),
        ],
    )
    def test_other_formats(self, tmp_path: Path, data: bytes, message: str) -> None:
        path = tmp_path / "f"
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            read_idx(path, dimensions=3)


class TestNpz:
    def test_devices_in_order_of_their_names(self, tmp_path: Path) -> None:
        device_file(tmp_path / "b.npz", train_y=np.array([3, 3, 3, 3, 3, 3]))
        device_file(tmp_path / "a.npz")
        data = load_npz(tmp_path)
        assert [device.train.y[0] for device in data.natural] == [0, 3]
        assert data.label_count == 4
        assert data.input_shape == (2, 3)
        assert len(data.pool) == 12
        assert data.test.y.tolist() == [2, 0, 2, 0]
        assert data.pool.x.dtype == np.float16

    def test_missing_folder_and_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no such folder.*train_x, train_y, test_x, test_y"):
            load_npz(tmp_path / "absent")
        with pytest.raises(DataError, match=r"no \.npz files"):
            load_npz(tmp_path)

    def test_devices_that_disagree(self, tmp_path: Path) -> None:
        device_file(tmp_path / "a.npz")
        device_file(tmp_path / "b.npz", scale=np.float32(0.5))
        with pytest.raises(DataError, match=r"b.npz: samples .* with scale 0.5"):
            load_npz(tmp_path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"test_x": None}, "no test_x; expected train_x"),
            ({"train_y": np.zeros(5, np.uint8)}, r"found \(6, 2, 3\) and \(5,\)"),
            ({"train_x": np.ones((0, 2, 3)), "train_y": np.zeros(0, int)}, "n >= 1"),
            ({"train_x": np.full((6, 2, 3), np.nan)}, "NaN or infinity"),
            ({"train_x": np.ones((6, 2, 3), complex)}, "is complex128"),
            ({"train_y": np.arange(6) - 1}, "whole numbers 0-255"),
            ({"train_y": np.ones(6)}, "whole numbers 0-255"),
            ({"test_x": np.zeros((2, 3, 3))}, r"train samples are \(2, 3\), test samples \(3, 3\)"),
            ({"scale": np.float32(-1)}, "one positive number"),
            ({"train_y": np.array([None] * 6)}, "not an .npz of plain arrays"),
        ],
    )
    def test_bad_files_are_named(self, tmp_path: Path, changes: dict[str, object], message: str) -> None:
        device_file(tmp_path / "a.npz", **changes)
        with pytest.raises(DataError, match=message) as failure:
            load_npz(tmp_path)
        assert "a.npz" in str(failure.value)

    @pytest.mark.parametrize("content", [b"", b"PK\3\4 broken", b"hello", pickle.dumps([1])])
    def test_what_is_not_npz(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"not an .npz of plain arrays"):
            read_shard(tmp_path / "a.npz")

    def test_a_single_array_under_the_wrong_name(self, tmp_path: Path) -> None:
        with (tmp_path / "a.npz").open("wb") as stream:
            np.save(stream, np.ones(3))
        with pytest.raises(DataError, match=r"not an .npz"):
            read_shard(tmp_path / "a.npz")

    @pytest.mark.shared
    def test_har(self, shared_data: Path) -> None:
        data = load_npz(shared_data / "har")
        assert len(data.natural) == 30
        assert (data.input_shape, data.label_count) == ((9, 128), 6)
        assert len(data.pool) + len(data.test) == 10_299


def test_unknown_data_says_what_there_is() -> None:
    for spec in ("cifar", "mnist", "npz:", "digits:x"):
        with pytest.raises(DataError, match=r"give digits, mnist:DIR .* npz:DIR .* or features:DIR"):
            load_dataset(spec)
