"""A tensor out of a file: every form the field writes is read, and a damaged file never is."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qatladder.errors import ArtifactError
from qatladder.numerics.dumps import DumpName, cast, find_dumps, parse_name, read_archive, read_tensor, write_input
from qatladder.numerics.tensor import TensorContract

DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]


def padded(dtype: str = "int32", width: int = 8) -> TensorContract:
    """[1, 2, 3, 5], its last axis padded."""
    size = np.dtype(dtype).itemsize
    return TensorContract("out", dtype, (1, 2, 3, 5), (1, 2, 3, width), (6 * width * size, 3 * width * size, width * size, size))


def values_of(dtype: str, shape: tuple[int, ...] = (1, 2, 3, 5), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    item = np.dtype(dtype)
    if item.kind == "f":
        return rng.standard_normal(shape).astype(item)
    if item.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    limits = np.iinfo(item)
    return np.asarray(rng.integers(limits.min, limits.max, shape, dtype=item, endpoint=True))


def mapped(array: np.ndarray) -> bool:
    """Whether an array is a view of a mapped file."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return type(getattr(base, "obj", base)).__name__ == "mmap"


def failure(path: Path, *args: Any, **kwargs: Any) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        read_tensor(path, *args, **kwargs)
    assert caught.value.where["file"] == str(path)
    assert caught.value.next_step
    return caught.value


# --- raw bytes ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", [".bin", ".yuv", ".raw", ""])
def test_raw_bytes(tmp_path: Path, dtype: str, suffix: str) -> None:
    values = values_of(dtype)
    path = tmp_path / ("x" + suffix)
    values.tofile(str(path))
    found = read_tensor(path, dtype=dtype, shape=values.shape)
    assert found.array.dtype == values.dtype and found.array.dtype.isnative and not found.padded and found.text is None
    np.testing.assert_array_equal(found.array, values)
    assert mapped(found.array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_padded_dump_by_strides_and_the_valid_one(tmp_path: Path, dtype: str) -> None:
    contract, values = padded(dtype), values_of(dtype)
    path = tmp_path / "x.bin"
    for content, expected in ((contract.pad(values), True), (values.tobytes(), False)):
        path.write_bytes(content)
        found = read_tensor(path, contract)
        assert found.padded is expected
        assert mapped(found.array)
        np.testing.assert_array_equal(found.array, values)


def test_a_dequantised_dump_of_an_integer_tensor(tmp_path: Path) -> None:
    contract, values = padded("int8", 16), values_of("float32")
    wide = np.zeros((1, 2, 3, 16), np.float32)
    wide[..., :5] = values
    for content in (values, wide):
        content.tofile(str(tmp_path / "x.bin"))
        np.testing.assert_array_equal(read_tensor(tmp_path / "x.bin", contract, dtype="float32").array, values)


def test_a_padded_dump_cut_at_the_valid_size(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(padded().pad(values_of("int32"))[:120])
    assert "truncated" in failure(tmp_path / "x.bin", padded(), padded=True).message
    (tmp_path / "x.txt").write_text("1\n" * 30)
    assert "truncated" in failure(tmp_path / "x.txt", padded(), padded=True).message
    (tmp_path / "x.bin").write_bytes(padded().pad(values_of("int32")))
    assert "wrong size" in failure(tmp_path / "x.bin", padded(), padded=False).message


@pytest.mark.parametrize("size", [0, 1, 119, 121, 191, 193, 1000])
def test_a_size_that_is_neither_names_both(tmp_path: Path, size: int) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(size))
    error = failure(tmp_path / "x.bin", padded())
    assert "120 bytes" in error.where["expected"] and "192 bytes" in error.where["expected"]
    assert error.where["found"].startswith(f"{size} bytes")


@pytest.mark.parametrize(
    ("written", "wanted"), [("float64", "float32"), ("float32", "int8"), ("int8", "int32"), ("int16", "float32"), ("float32", "uint8")]
)
def test_another_dtype_is_recognised_by_the_size(tmp_path: Path, written: str, wanted: str) -> None:
    values_of(written).tofile(str(tmp_path / "x.bin"))
    error = failure(tmp_path / "x.bin", dtype=wanted, shape=(1, 2, 3, 5))
    assert "another dtype" in error.message
    assert written in error.where["found"]


def test_raw_bytes_alone_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(range(128, 140)))
    for known in ({}, {"dtype": "int8"}, {"shape": (12,)}):
        assert "does not say" in failure(tmp_path / "x.bin", **known).message


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_the_other_byte_order(tmp_path: Path, dtype: str, scale: float) -> None:
    for values in (values_of(dtype, (4, 100)) * np.dtype(dtype).type(scale), np.arange(32).astype(dtype)):
        values.astype(np.dtype(dtype).newbyteorder(">")).tofile(str(tmp_path / "x.bin"))
        assert "big-endian" in failure(tmp_path / "x.bin", dtype=dtype, shape=values.shape).message
        values.tofile(str(tmp_path / "x.bin"))
        np.testing.assert_array_equal(read_tensor(tmp_path / "x.bin", dtype=dtype, shape=values.shape).array, values)


@pytest.mark.parametrize(
    "values", [np.zeros(64), np.full(64, 1e-38), 10.0 ** -np.arange(37), np.array([np.nan] * 64), 2.0 ** np.arange(-64, 64)]
)
def test_odd_floats_are_not_taken_for_the_other_byte_order(tmp_path: Path, values: np.ndarray) -> None:
    values.astype(np.float32).tofile(str(tmp_path / "x.bin"))
    read_tensor(tmp_path / "x.bin", dtype="float32", shape=values.shape, finite=False)


def test_not_finite(tmp_path: Path) -> None:
    values = values_of("float32")
    values[0, 1, 0, 2], values[0, 1, 2, 4] = np.nan, np.inf
    values.tofile(str(tmp_path / "x.bin"))
    np.save(str(tmp_path / "x.npy"), values)
    (tmp_path / "p.bin").write_bytes(padded("float32").pad(values))
    for name, contract in (("x.bin", padded("float32")), ("x.npy", None), ("p.bin", padded("float32"))):
        error = failure(tmp_path / name, contract)
        assert error.where["found"] == "2 of 30 elements are NaN or infinite, the first is nan"
        assert error.where["index"] == "[0, 1, 0, 2]"
        np.testing.assert_array_equal(read_tensor(tmp_path / name, contract, finite=False).array, values)


def test_padding_may_hold_anything(tmp_path: Path) -> None:
    wide = np.full((1, 2, 3, 8), np.nan, np.float32)
    wide[..., :5] = values_of("float32")
    wide.tofile(str(tmp_path / "x.bin"))
    np.testing.assert_array_equal(read_tensor(tmp_path / "x.bin", padded("float32")).array, wide[..., :5])


def test_a_bool_is_0_or_1(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(bytes([0, 1, 2]))
    assert failure(tmp_path / "x.bin", dtype="bool", shape=(3,)).where["index"] == "2"


def test_a_stride_beyond_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(192))
    with pytest.raises(ArtifactError, match="strides"):
        read_tensor(tmp_path / "x.bin", TensorContract("x", "int32", (1, 2, 3, 5), (), (192, 128, 32, 4), 192))


@pytest.mark.parametrize("name", ["missing.bin", "folder.npy"])
def test_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.npy").mkdir()
    assert "cannot be read" in failure(tmp_path / name, dtype="int8", shape=(1,)).message


def test_a_large_file_costs_no_memory(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    size = 1 << 30
    for name in ("x.bin", "p.bin"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    contract = TensorContract("x", "float32", (1, size // 64, 10), (1, size // 64, 16), byte_size=size)
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1, np.float32))
    header["shape"] = (size // 4,)
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, known in (("x.bin", {"dtype": "float32", "shape": (size // 4,)}), ("p.bin", {"contract": contract}), ("x.npy", {})):
        assert (
            read_tensor(tmp_path / name, **known).array.reshape(-1)[:10].max() == 0
            if name != "p.bin"
            else read_tensor(tmp_path / name, **known).padded
        )
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 300, "MB"


# --- numpy files ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_npy_of_any_type_and_order(tmp_path: Path, dtype: str, order: str) -> None:
    values = values_of(dtype)
    for array in (values, np.asfortranarray(values), values[..., ::2], values.reshape(-1)[3].reshape(()), values[:0]):
        np.save(str(tmp_path / "x.npy"), array.astype(array.dtype.newbyteorder(order)))
        found = read_tensor(tmp_path / "x.npy").array
        assert found.dtype == values.dtype and found.dtype.isnative
        np.testing.assert_array_equal(found, array)
        assert array.size == 0 or array.ndim == 0 or mapped(found) is (order == "<" or found.itemsize == 1)


def test_npy_against_a_contract(tmp_path: Path) -> None:
    values, contract, path = values_of("int32"), padded(), tmp_path / "x.npy"
    wide = np.zeros((1, 2, 3, 8), np.int32)
    wide[..., :5] = values
    for array, expected in ((values, False), (values[0], False), (wide, True)):
        np.save(str(path), array)
        found = read_tensor(path, contract)
        assert found.padded is expected
        np.testing.assert_array_equal(found.array, values)
    for array in (values.astype(np.int64), values.astype(np.float32), values.transpose(0, 3, 1, 2), values.reshape(-1), wide[..., :7]):
        np.save(str(path), array)
        assert "another" in failure(path, contract).message


@pytest.mark.parametrize("array", [np.array([{}]), np.array(["text"]), np.zeros(2, "V4"), np.zeros(2, complex), np.zeros(2, [("a", "i4")])])
def test_npy_of_what_is_no_numbers(tmp_path: Path, array: np.ndarray) -> None:
    np.save(str(tmp_path / "x.npy"), array)
    assert "no plain numbers" in failure(tmp_path / "x.npy").message


def test_npz(tmp_path: Path) -> None:
    arrays = {"b": values_of("int8"), "a": np.asfortranarray(values_of("float32")), "empty": np.zeros((0, 3)), "one": np.array(5)}
    for save in (np.savez, np.savez_compressed):
        save(str(tmp_path / "x.npz"), **arrays)
        found = read_archive(tmp_path / "x.npz")
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
        np.testing.assert_array_equal(read_tensor(tmp_path / "x.npz", key="a").array, arrays["a"])
        np.testing.assert_array_equal(read_tensor(tmp_path / "x.npz", TensorContract("b", "int8", (1, 2, 3, 5))).array, arrays["b"])
        assert "which" in failure(tmp_path / "x.npz").message
        assert failure(tmp_path / "x.npz", key="c").where["found"] == "a, b, empty, one"
    np.savez(str(tmp_path / "x.npz"), only=arrays["b"])
    np.testing.assert_array_equal(read_tensor(tmp_path / "x.npz").array, arrays["b"])


# --- text ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("separator", ["\n", " ", ",", "; ", "\r\n"])
@pytest.mark.parametrize("name", ["x.txt", "x.dump"])
def test_text_of_any_type(tmp_path: Path, dtype: str, separator: str, name: str) -> None:
    values = values_of(dtype)
    form = "{:.17g}" if values.dtype.kind == "f" else "{:d}"
    (tmp_path / name).write_text(separator.join(form.format(value) for value in values.reshape(-1).tolist()) + separator)
    for known in ({"dtype": dtype, "shape": values.shape}, {"contract": padded(dtype)}):
        found = read_tensor(tmp_path / name, **known)
        assert found.text is not None and found.array.dtype == values.dtype
        assert found.array.tobytes() == values.tobytes()


def test_padded_text(tmp_path: Path) -> None:
    values, contract = values_of("int32"), padded()
    wide = np.full((1, 2, 3, 8), 7, np.int32)
    wide[..., :5] = values
    np.savetxt(str(tmp_path / "x.txt"), wide.reshape(-1, 8), fmt="%d")
    found = read_tensor(tmp_path / "x.txt", contract)
    assert found.padded
    np.testing.assert_array_equal(found.array, values)


@pytest.mark.parametrize("count", [1, 29, 31, 47, 49])
def test_a_count_that_is_neither_names_both(tmp_path: Path, count: int) -> None:
    (tmp_path / "x.txt").write_text("1\n" * count)
    error = failure(tmp_path / "x.txt", padded())
    assert "30 numbers" in error.where["expected"] and "48 with padding" in error.where["expected"]
    assert error.where["found"] == f"{count} numbers"


@pytest.mark.parametrize(
    ("text", "dtype", "found", "index"),
    [
        ("1 200 3\n", "int8", "200", "1"),
        ("1 -1 3\n", "uint8", "-1", "1"),
        ("1 2 1.5\n", "int32", "1.5", "2"),
        ("2147483648\n", "int32", "2147483648", "0"),
        ("-1 2\n", "uint64", "-1", "0"),
        ("18446744073709551615\n", "int64", "18446744073709551615", "0"),
        ("0 1 2\n", "bool", "2", "2"),
        ("9223372036854775808.0\n", "int64", "9.223372036854776e+18", "0"),
        ("1 16777217\n", "float32", "16777217", "1"),
        ("9223372036854775807\n", "float64", "9223372036854775807", "0"),
        ("70000 1\n", "float16", "70000", "0"),
        ("1.5 1e39\n", "float32", "1e+39", "1"),
    ],
)
def test_a_value_its_type_cannot_hold(tmp_path: Path, text: str, dtype: str, found: str, index: str) -> None:
    (tmp_path / "x.txt").write_text(text)
    error = failure(tmp_path / "x.txt", dtype=dtype)
    assert (error.where["expected"], error.where["found"], error.where["index"]) == (dtype, found, index)


def test_values_at_the_limits_fit(tmp_path: Path) -> None:
    for dtype in DTYPES[1:9]:
        limits = np.iinfo(dtype)
        (tmp_path / "x.txt").write_text(f"{limits.min} {limits.max} 0 \n")
        assert read_tensor(tmp_path / "x.txt", dtype=dtype, shape=(3,)).array.tolist() == [limits.min, limits.max, 0]
    assert cast(np.array([1.0, -0.0, 127.0]), "int8").tolist() == [1, 0, 127]
    assert cast(np.array([2**24, 3]), "float32").tolist() == [2**24, 3]


def test_a_text_that_ends_without_a_separator(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1\n2\n34")
    assert "truncated" in failure(tmp_path / "x.txt", dtype="int8", shape=(3,)).message
    assert read_tensor(tmp_path / "x.txt", dtype="int8", shape=(3,), unterminated=True).array.tolist() == [1, 2, 34]
    (tmp_path / "x.txt").write_text("1.000000\n2.000000")  # all decimals are there
    assert read_tensor(tmp_path / "x.txt", dtype="float32", shape=(2,)).array.tolist() == [1, 2]


# --- what the tools write ---


def test_hbdk_sim(tmp_path: Path) -> None:
    values = values_of("int32")
    lines = "\n".join(" ".join(map(str, row)) + " " for row in values.reshape(-1, 5).tolist())
    path = tmp_path / "hbdk_output0_feature_y_elem_int.txt"
    path.write_text(f"#operator: CONV\n#shift = 0 0 \n#valid_dim=1x2x3x5\n#dynamic_n=1\n{lines}\n")
    found = read_tensor(path, padded())
    np.testing.assert_array_equal(found.array, values)
    assert found.text is not None and len(found.text.header) == 4 and found.text.integer


def test_hbdk_model_verifier(tmp_path: Path) -> None:
    values = values_of("float32")
    lines = "\n".join(" ".join(f"{value:.20e}" for value in row) + " " for row in values.reshape(-1, 5).tolist())
    folder = tmp_path / "run" / "simulator_output"
    folder.mkdir(parents=True)
    (folder / "hbdk_output0_feature_y_torch_native_elem_float.txt").write_text(
        f"#operator: CONV\n#valid_dim=1x2x3x5\n#dynamic_n=1\n{lines}\n"
    )
    found = read_tensor(find_dumps(tmp_path / "run")[0], padded("int8"), dtype="float32")
    assert found.array.tobytes() == values.tobytes()
    assert found.text is not None and len(found.text.header) == 3 and found.text.digits == 21


@pytest.mark.parametrize(("fmt", "dtype"), [("%d", "int32"), ("%.9f", "float32"), ("%.9g", "float32")])
@pytest.mark.parametrize("axis", [1, 5, 30])
def test_hrt_model_exec_text(tmp_path: Path, fmt: str, dtype: str, axis: int) -> None:
    values = values_of(dtype)
    np.savetxt(str(tmp_path / "model_infer_output_0_y.txt"), values.reshape(-1, axis), fmt=fmt)
    found = read_tensor(find_dumps(tmp_path)[0], padded(dtype))
    np.testing.assert_allclose(found.array, values, rtol=0, atol=0 if fmt != "%.9f" else 1e-9)


NAMES: list[tuple[list[str], str, dict[int, str]]] = [
    (["model_infer_output_0_y.bin", "model_infer_output_10_a_b.bin", "model_infer_input_0_x.bin"], "output", {0: "y.bin", 10: "a_b.bin"}),
    (["model_infer_output_0.txt", "model_infer_output_1.bin", "x.txt"], "output", {0: "output_0.txt", 1: "output_1.bin"}),
    (["model_infer_input_0_x.bin", "model_infer_output_0_x.bin"], "input", {0: "input_0_x.bin"}),
    (["model_infer_output_0_y.txt", "model_infer_output_0_y.bin"], "output", {0: "y.bin"}),
    (["hbdk_output0_feature_y_elem_int.txt", "hbdk_output0_feature_y_elem_float.txt"], "output", {0: "y_elem_int.txt"}),
    (["bpu_output/hbdk_output3_feature_a_b_torch_native_elem_float.txt"], "output", {3: "a_b_torch_native_elem_float.txt"}),
    (["simulator_output/hbdk_output0_feature__torch_native_elem_float.txt"], "output", {0: "feature__torch_native_elem_float.txt"}),
    (["model_infer_output_0_y.bin.part", "model_infer_output_y.bin", "hbdk_output_feature_y_elem_int.txt"], "output", {}),
]


@pytest.mark.parametrize(("names", "side", "expected"), NAMES)
def test_dumps_are_found(tmp_path: Path, names: list[str], side: str, expected: dict[int, str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_dumps(tmp_path, side)
    assert list(found) == list(expected)
    assert all(path.name.endswith(expected[index]) for index, path in found.items())


@pytest.mark.parametrize(
    "names",
    [
        ("model_infer_output_0_y.bin", "model_infer_output_0_z.bin"),
        ("model_infer_output_0.bin", "model_infer_output_0_z.bin"),
        ("model_infer_output_0_y.bin", "model_infer_output_0_z.txt"),
        ("model_infer_output_0_y.bin", "model_infer_output_00_y.bin"),
        ("model_infer_output_0_y.txt", "hbdk_output0_feature_y_elem_int.txt"),
        ("simulator_output/hbdk_output0_feature_y_elem_int.txt", "bpu_output/hbdk_output0_feature_y_elem_int.txt"),
    ],
)
def test_a_stale_dump_is_never_chosen(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ArtifactError, match="two dumps") as caught:
        find_dumps(tmp_path)
    assert all(name in caught.value.where["found"] for name in names)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model_infer_output_10_a_b.bin", ("hrt", "output", 10, "a_b", "bin")),
        ("model_infer_input_0.txt", ("hrt", "input", 0, "", "txt")),
        ("hbdk_output2_feature_y_0_elem_int.txt", ("hbdk", "output", 2, "y_0", "elem_int")),
        ("hbdk_output2_feature_y_torch_native_elem_float.txt", ("hbdk", "output", 2, "y", "torch_native_elem_float")),
        ("output_0.bin", None),
    ],
)
def test_what_a_name_says(name: str, expected: tuple[str, str, int, str, str] | None) -> None:
    assert parse_name(name) == (DumpName(*expected) if expected else None)


# --- inputs ---


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(DTYPES), st.lists(st.integers(1, 4), max_size=4), st.sampled_from([".bin", ".txt", ".npy", ".yuv"]), st.integers(0, 99)
)
def test_inputs_come_back(tmp_path: Path, dtype: str, shape: list[int], suffix: str, seed: int) -> None:
    values = values_of(dtype, tuple(shape), seed)
    path = tmp_path / ("input" + suffix)
    write_input(path, values)
    found = read_tensor(path, TensorContract("input", dtype, tuple(shape))).array
    assert found.shape == values.shape and found.tobytes() == values.tobytes()
    if suffix == ".txt":
        as_numpy = np.loadtxt(str(path), dtype=values.dtype if values.dtype.kind == "f" else None)
        assert as_numpy.size == values.size
    elif suffix != ".npy":
        assert path.read_bytes() == values.tobytes()


def test_an_input_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_input(tmp_path / "x.bin", np.arange(3))
    for array in (np.array([np.nan]), np.zeros(0), np.array(["a"]), np.array([1j])):
        with pytest.raises(ArtifactError):
            write_input(tmp_path / "x.bin", array)

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="space"):
        write_input(tmp_path / "x.bin", np.zeros(9))
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
    assert read_tensor(tmp_path / "x.bin", dtype="int64", shape=(3,)).array.tolist() == [0, 1, 2]


# --- damage ---


def kinds(folder: Path) -> dict[str, tuple[Path, dict[str, Any], np.ndarray]]:
    """A small valid file of each kind, how it is read, and what is in it."""
    made: dict[str, tuple[Path, dict[str, Any], np.ndarray]] = {}

    def add(name: str, write: Callable[[Path], Any], known: dict[str, Any], values: np.ndarray) -> None:
        write(folder / name)
        made[name] = (folder / name, known, values)

    for dtype in ("int8", "int32", "float32"):
        values = values_of(dtype)
        known = {"contract": padded(dtype)}
        form = "%d" if dtype[0] == "i" else "%.9g"
        text = "\n".join(form % value for value in values.reshape(-1).tolist()) + "\n"
        if dtype != "int32":
            add(dtype + ".npy", lambda path, values=values: np.save(str(path), values), known, values)
            add(dtype + ".free.npy", lambda path, values=values: np.save(str(path), values), {}, values)
            add(dtype + ".npz", lambda path, values=values: np.savez(str(path), out=values), {}, values)
            add(dtype + ".z.npz", lambda path, values=values: np.savez_compressed(str(path), out=values), known, values)
        add(dtype + ".bin", lambda path, values=values: values.tofile(str(path)), known, values)
        add(
            dtype + ".p.bin",
            lambda path, values=values, dtype=dtype: path.write_bytes(padded(dtype).pad(values)),
            {**known, "padded": True},
            values,
        )
        add(dtype + ".txt", lambda path, text=text: path.write_text("#h\n" + text), known, values)
        add(dtype + ".c.txt", lambda path, text=text: path.write_text(text.replace("\n", ", ")), known, values)
        add(dtype + ".input.txt", lambda path, values=values: write_input(path, values), known, values)
    fixed = values_of("float32").round(2)
    add("fixed.txt", lambda path: np.savetxt(str(path), fixed.reshape(-1, 5), fmt="%.6f"), {"contract": padded("float32")}, fixed)
    return made


def test_a_truncated_file_is_never_read(tmp_path: Path) -> None:
    for name, (path, known, values) in kinds(tmp_path).items():
        whole = path.read_bytes()
        assert read_tensor(path, **known).array.tobytes() == values.tobytes(), name
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            try:
                found = read_tensor(path, **known).array
            except ArtifactError:
                continue
            # What was cut off was white space.
            assert name.endswith(".txt") and found.tobytes() == values.tobytes(), (name, size)


def test_flipped_bits_raise_nothing_else(tmp_path: Path) -> None:
    rng = random.Random(0)
    for path, known, values in kinds(tmp_path).values():
        whole = path.read_bytes()
        places = rng.sample(range(8 * len(whole)), min(300, 8 * len(whole)))
        for place in places:
            content = bytearray(whole)
            content[place // 8] ^= 1 << place % 8
            path.write_bytes(content)
            try:
                found = read_tensor(path, **known).array
            except ArtifactError:
                continue
            assert found.dtype.kind in "biuf"
            if known:
                assert (found.shape, found.dtype) == (values.shape, values.dtype)
            if path.suffix == ".npz":  # its CRC tells
                assert found.tobytes() == values.tobytes() or found.shape == values.shape


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=100).map(lambda tail: b"\x93NUMPY\x01\x00" + tail),
        st.binary(max_size=100).map(lambda tail: b"PK\x03\x04" + tail),
        st.text("0123456789+-.eE ,;\n#", max_size=100).map(str.encode),
        st.text("{'descr':<f4i8,shape()0123456789 TrueFalsfn_od}\n", max_size=110).map(
            lambda text: b"\x93NUMPY\x01\x00\x76\x00" + text.encode().ljust(118)[:118]
        ),
    ),
    st.sampled_from(["x.npy", "x.npz", "x.bin", "x.txt", "x", "x.yuv"]),
    st.sampled_from(
        [{}, {"dtype": "float32"}, {"dtype": "int8", "shape": (3, 4)}, {"shape": (3,)}, {"contract": padded("int8")}, {"key": "a"}]
    ),
)
def test_random_bytes_are_an_array_of_what_was_asked_or_an_error(tmp_path: Path, content: bytes, name: str, known: dict[str, Any]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    try:
        found = read_tensor(path, **known).array
    except ArtifactError:
        return
    assert found.dtype.isnative and found.dtype.kind in "biuf"
    if "shape" in known:
        assert found.shape == known["shape"]
