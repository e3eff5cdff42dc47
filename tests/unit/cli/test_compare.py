"""Promises: `qatladder compare` reads every form of a tensor, exits 0 identical, 1 different, 2 unprovable, 3 unreadable, and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qatladder import cli
from qatladder.numerics.tensor import pad


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.out))


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["qatladder", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def tensor(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-100, 100, (1, 16, 20, 3)).astype(np.int8)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_identical_tensors_exit_0(compare: Any, tmp_path: Path, tensor: np.ndarray) -> None:
    ran = compare(save(tmp_path / "a.npy", tensor), save(tmp_path / "b.npy", tensor), "--json")
    assert ran.code == 0
    assert ran.json["status"] == "passed" and ran.json["bit_exact"] is True
    assert ran.json["fingerprint"]["cause"] == "none"
    assert ran.json["stats"]["mismatches"] == 0
    assert "identical, bit for bit" in compare(tmp_path / "a.npy", tmp_path / "b.npy").out


def test_a_difference_exits_1_and_is_named_on_one_screen(compare: Any, tmp_path: Path, tensor: np.ndarray) -> None:
    files = save(tmp_path / "a.npy", tensor), save(tmp_path / "b.npy", np.ascontiguousarray(tensor[..., ::-1]))
    ran = compare(*files, "--json")
    assert ran.code == 1
    assert (ran.json["status"], ran.json["bit_exact"], ran.json["fingerprint"]["cause"]) == ("failed", False, "channel_swap")
    assert ran.json["fingerprint"]["confidence"] >= 0.9
    shown = compare(*files, "--html", tmp_path / "page.html")
    assert "channel_swap (channels 0 and 2 are exchanged (RGB and BGR))" in shown.out
    assert len(shown.out.splitlines()) <= 24
    assert "data:image/png" in (tmp_path / "page.html").read_text()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("separator", ["\n", " ", ",", "\t", ";"])
@pytest.mark.parametrize("end", ["", "\n"])
def test_integers_in_text_prove_bit_exactness(compare: Any, tmp_path: Path, tensor: np.ndarray, separator: str, end: str) -> None:
    (tmp_path / "b.txt").write_text("# header\n" + separator.join(map(str, tensor.ravel().tolist())) + end)
    ran = compare(save(tmp_path / "a.npy", tensor), tmp_path / "b.txt", "--json")
    assert (ran.code, ran.json["bit_exact"]) == (0, True)


def test_too_few_digits_are_unprovable_and_still_disprove(compare: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    a = rng.standard_normal((1, 10, 7)).astype(np.float32)
    np.savetxt(tmp_path / "six.txt", a.reshape(-1, 7), fmt="%.6f")
    np.savetxt(tmp_path / "nine.txt", a.reshape(-1, 7), fmt="%.9g")
    np.savetxt(tmp_path / "shortest.txt", a.reshape(-1, 7), fmt="%s")
    b = a.copy()
    b[0, 3, 3] += np.float32(0.001)
    np.savetxt(tmp_path / "other.txt", b.reshape(-1, 7), fmt="%.6f")
    file = save(tmp_path / "a.npy", a)
    six = compare(file, tmp_path / "six.txt", "--json")
    assert (six.code, six.json["status"], six.json["bit_exact"]) == (2, "unprovable", None)
    assert "6 decimals" in six.json["reason"]
    for name in ("nine.txt", "shortest.txt"):
        ran = compare(file, tmp_path / name, "--json")
        assert (ran.code, ran.json["status"], ran.json["bit_exact"]) == (0, "passed", True), name
    other = compare(file, tmp_path / "other.txt", "--json")
    assert (other.code, other.json["status"]) == (1, "failed")


def test_with_the_scale_known_few_digits_tell_integers_apart(compare: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    integers = rng.integers(-128, 128, (1, 4, 5, 6)).astype(np.int8)
    a = integers.astype(np.float32) * np.float32(0.0125)
    np.savetxt(tmp_path / "b.txt", a.reshape(-1, 6), fmt="%.5f")
    contract = {"name": "y", "dtype": "float32", "valid_shape": [1, 4, 5, 6], "scale": [0.0125]}
    (tmp_path / "c.json").write_text(json.dumps(contract))
    file = save(tmp_path / "a.npy", a)
    assert compare(file, tmp_path / "b.txt").code == 2
    ran = compare(file, tmp_path / "b.txt", "--contract", tmp_path / "c.json", "--json")
    assert (ran.code, ran.json["bit_exact"]) == (0, True)
    whole = a.copy()
    a[0, 2, 2, 2] += np.float32(1e-6)  # below the digits, but then it is no multiple of the scale: nothing the text can stand for
    near = compare(save(tmp_path / "near.npy", a), tmp_path / "b.txt", "--contract", tmp_path / "c.json", "--json")
    assert (near.code, near.json["bit_exact"]) == (1, False)
    a = whole
    a[0, 1, 1, 1] += np.float32(0.0125)
    np.savetxt(tmp_path / "b.txt", a.reshape(-1, 6), fmt="%.5f")
    assert compare(file, tmp_path / "b.txt", "--contract", tmp_path / "c.json").code == 1


def test_raw_bytes_need_a_dtype_and_a_shape_from_somewhere(compare: Any, tmp_path: Path, tensor: np.ndarray) -> None:
    (tmp_path / "b.bin").write_bytes(tensor.tobytes())
    (tmp_path / "c.bin").write_bytes(tensor.tobytes())
    file = save(tmp_path / "a.npy", tensor)
    assert compare(file, tmp_path / "b.bin").code == 0
    assert compare(tmp_path / "b.bin", tmp_path / "c.bin", "--dtype", "int8", "--shape", "1,16,20,3").code == 0
    nothing = compare(tmp_path / "b.bin", tmp_path / "c.bin")
    assert nothing.code == 3 and "dtype" in nothing.err and "b.bin" in nothing.err
    wrong = compare(tmp_path / "b.bin", tmp_path / "c.bin", "--dtype", "int9", "--shape", "1,16,20,3")
    assert wrong.code == 3 and "no such dtype" in wrong.err
    assert compare(tmp_path / "b.bin", tmp_path / "c.bin", "--dtype", "int8", "--shape", "1,x").code == 3


def test_padding_is_taken_off_by_the_strides_of_the_contract(compare: Any, tmp_path: Path, tensor: np.ndarray) -> None:
    console = (
        "This model file has 1 model:\n[net]\n---------\n[model name]: net\n\ninput[0]: \nname: x\ninput source: HB_DNN_INPUT_FROM_DDR\n"
        "valid shape: (1,16,20,3,)\naligned shape: (1,16,32,4,)\naligned byte size: 2048\ntensor type: HB_DNN_TENSOR_TYPE_S8\n"
        "tensor layout: HB_DNN_LAYOUT_NHWC\nquanti type: NONE\nstride: (2048,128,4,1,)\n\noutput[0]: \nname: y\nvalid shape: (1,16,20,3,)\n"
        "aligned shape: (1,16,32,4,)\naligned byte size: 2048\ntensor type: HB_DNN_TENSOR_TYPE_S8\ntensor layout: HB_DNN_LAYOUT_NHWC\n"
        "quanti type: NONE\nstride: (2048,128,4,1,)\n\n---------\n"
    )
    (tmp_path / "model_info.txt").write_text(console)
    dump = tmp_path / "model_infer_output_0_y.bin"
    dump.write_bytes(pad(tensor, (2048, 128, 4, 1), 2048))
    file = save(tmp_path / "a.npy", tensor)
    ran = compare(file, dump, "--contract", tmp_path / "model_info.txt")
    assert ran.code == 0 and "padding taken off" in ran.out
    dump.write_bytes(dump.read_bytes()[:-1])
    cut = compare(file, dump, "--contract", tmp_path / "model_info.txt")
    assert cut.code == 3
    assert "truncated" in cut.err or "wrong size" in cut.err
    assert "960 bytes" in cut.err and "2048 bytes" in cut.err and "2047 bytes" in cut.err


def test_archives_are_compared_tensor_by_tensor(compare: Any, tmp_path: Path, tensor: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", x=tensor, y=tensor)
    np.savez(tmp_path / "b.npz", x=tensor, y=tensor + 1)
    ran = compare(tmp_path / "a.npz", tmp_path / "b.npz", "--json")
    assert ran.code == 1
    assert ran.json["tensor"] == "y" and ran.json["fingerprint"]["cause"] == "offset"
    assert {name: item["status"] for name, item in ran.json["tensors"].items()} == {"x": "passed", "y": "failed"}
    assert compare(tmp_path / "a.npz", tmp_path / "b.npz", "--tensor", "x").code == 0
    assert compare(tmp_path / "a.npz", tmp_path / "b.npz", "--tensor", "z").code == 3
    np.savez(tmp_path / "c.npz", x=tensor)
    assert compare(tmp_path / "a.npz", tmp_path / "c.npz").code == 3
    assert compare(tmp_path / "c.npz", save(tmp_path / "a.npy", tensor)).code == 0


def test_shapes_types_and_nan_are_answers(compare: Any, tmp_path: Path, tensor: np.ndarray) -> None:
    file = save(tmp_path / "a.npy", tensor)
    moved = compare(file, save(tmp_path / "b.npy", np.ascontiguousarray(tensor.transpose(0, 3, 1, 2))), "--json")
    assert (moved.code, moved.json["fingerprint"]["cause"], moved.json["stats"]) == (1, "transposed", None)
    unsigned = compare(file, save(tmp_path / "b.npy", (tensor.astype(np.int16) + 128).astype(np.uint8)), "--json")
    assert (unsigned.code, unsigned.json["fingerprint"]["cause"]) == (1, "offset")
    a = tensor.astype(np.float32) / 7
    floats = save(tmp_path / "f.npy", a)
    swapped = compare(floats, save(tmp_path / "g.npy", a.byteswap()), "--json")
    assert (swapped.code, swapped.json["fingerprint"]["cause"]) == (1, "byte_order")
    a[0, 0, 0, 0] = np.nan
    hole = compare(floats, save(tmp_path / "g.npy", a), "--json")
    assert hole.code == 1 and "NaN" in hole.json["reason"]


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "not numbers", "folder"])
def test_a_file_that_cannot_be_read_exits_3_with_its_name_and_no_traceback(
    compare: Any, tmp_path: Path, tensor: np.ndarray, damage: str
) -> None:
    file, other = save(tmp_path / "a.npy", tensor), tmp_path / "b.npy"
    if damage == "empty":
        other.touch()
    elif damage == "truncated":
        other.write_bytes(file.read_bytes()[:-10])
    elif damage == "not numbers":
        np.save(other, np.array(["a", None], dtype=object), allow_pickle=True)
    elif damage == "folder":
        other.mkdir()
    ran = compare(file, other)
    assert ran.code == 3
    assert "b.npy" in ran.err and "next:" in ran.err
    assert "Traceback" not in ran.err
    assert not ran.out
