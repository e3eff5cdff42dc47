"""A file that holds a tensor: what is the tensor, and is the file whole?

One entry, `read_tensor`, for every form the field writes: `.npy`, `.npz`, raw bytes (`.bin`, `.yuv`), numbers in text; dumps of
hrt_model_exec, hbdk-sim and hbdk-model-verifier, padded or not. A file whose size or count fits neither the valid nor the padded
tensor is never read. Arrays of files that need no change are views of the mapped file: a file of any size costs no memory.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Sequence, Tuple, Union

import numpy as np

from qatladder.errors import ArtifactError
from qatladder.numerics.tensor import MappedPages, TensorContract, valid_view
from qatladder.numerics.text import TextFormat, parse_numbers

DUMP = re.compile(r"^model_infer_(?P<side>input|output)_(?P<index>\d+)(?:_(?P<name>.+))?\.(?P<format>bin|txt)$")
"""Dump files of hrt_model_exec; old X3 and J5 builds leave the tensor's name out."""

SIMULATED = re.compile(
    r"^hbdk_(?P<side>input|output)(?P<index>\d+)_feature_(?P<name>.*?)_(?P<format>elem_int|elem_float|torch_native_elem_float)\.txt$"
)
"""Dump files of hbdk-sim and hbdk-model-verifier."""

FORMATS = ("bin", "txt", "elem_int", "torch_native_elem_float", "elem_float")
"""Forms of one dump, the most exact first."""

FOLDERS = ("simulator_output", "bpu_output")
"""Where hbdk-model-verifier puts its dumps."""

_CHUNK = 1 << 22
_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_TEXT = frozenset(b"0123456789+-.eE \t\r\n\v\f,;#")

# Floats outside of these sizes are as good as never found in a tensor: random bytes are among them, every fifth float32.
_PLAUSIBLE = {2: (0.0, np.inf), 4: (1e-30, 1e30), 8: (1e-100, 1e100)}
_SAMPLE, _ENOUGH, _IMPLAUSIBLE = 1 << 16, 16, 0.05


@dataclass(frozen=True)
class Dump:
    """A tensor out of a file.

    Attributes:
        array: valid elements of native byte order, in the valid shape; a read-only view of the mapped file where it needs no change.
        path: the file.
        text: how its numbers are written; None for binary files.
        padded: the file held the padded tensor.
        numbers: the numbers as the text has them, before they were rounded to the dtype; int64 or float64, same shape. None for binary
            files.
    """

    array: np.ndarray
    path: Path
    text: Optional[TextFormat] = None
    padded: bool = False
    numbers: Optional[np.ndarray] = None


def read_tensor(
    path: Union[str, Path],
    contract: Optional[TensorContract] = None,
    dtype: str = "",
    shape: Sequence[int] = (),
    key: str = "",
    finite: bool = True,
    unterminated: bool = False,
    padded: Optional[bool] = None,
) -> Dump:
    """Read one tensor out of a file.

    Args:
        path: `.npy` and `.npz` state what they hold. A `.txt`, and any other file that is text, holds numbers. All else is raw
            little-endian bytes and needs a dtype and a shape.
        contract: what is known of the tensor; a file that contradicts it is refused, padding it states is taken off.
        dtype: numpy name of the file's elements where that is not the contract's (a dequantised dump), or without a contract.
        shape: valid shape, without a contract.
        key: member of an `.npz`; not needed when it has one, or one with the contract's name.
        finite: refuse NaN and infinity.
        unterminated: take a text whose last number no separator follows; such a text may have lost digits of it.
        padded: whether raw bytes and text hold the padded tensor. None takes both, and cannot tell a padded file that was cut at
            exactly the size of the valid tensor.
    Raises:
        ArtifactError: the file is missing, truncated, of another size, count, shape, dtype or byte order, or holds NaN.
    """
    path = Path(path)
    wanted = _wanted(path, contract, dtype, shape)
    shaped = contract is not None or len(shape) > 0
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise IsADirectoryError("it is no file")
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise ArtifactError(
            "the file cannot be read",
            "run the tool that writes it again, or correct the path",
            file=path,
            expected="a file",
            found=error.strerror or error,
        ) from None
    suffix = path.suffix.lower()
    if suffix == ".npz":
        dump = _of_archive(path, wanted, shaped, key)
    elif suffix == ".npy":
        dump = _of_npy(path, wanted, shaped)
    elif suffix == ".txt" or (not _is_raw(size, wanted, shaped, padded) and start and _TEXT.issuperset(start.partition(b"#")[0])):
        dump = _of_text(path, wanted, shaped, unterminated, padded)
    elif not _is_raw(size, wanted, shaped, padded) and start.startswith(_NPY):
        dump = _of_npy(path, wanted, shaped)
    elif not _is_raw(size, wanted, shaped, padded) and start.startswith(_ZIP):
        dump = _of_archive(path, wanted, shaped, key)
    else:
        dump = _of_bytes(path, size, wanted, shaped, padded)
    if dump.array.dtype.kind == "b":
        _check_bools(dump.array, path)
    if finite:
        _check_finite(dump.array, path)
    return dump


def _wanted(path: Path, contract: Optional[TensorContract], dtype: str, shape: Sequence[int]) -> Optional[TensorContract]:
    """What the file shall hold; None when nothing is known. An empty dtype is not known."""
    if contract is None:
        if not dtype and not shape:
            return None
        return TensorContract(path.name, np.dtype(dtype).name if dtype else "", tuple(int(size) for size in shape))
    wanted = contract if not shape else replace(contract, valid_shape=tuple(int(size) for size in shape))
    if dtype and np.dtype(dtype).name != contract.dtype:
        old = np.dtype(contract.dtype).itemsize if contract.dtype else np.dtype(dtype).itemsize
        new = np.dtype(dtype).itemsize
        wanted = replace(
            wanted,
            dtype=np.dtype(dtype).name,
            stride=tuple(step * new // old for step in contract.stride),
            byte_size=contract.byte_size * new // old,
        )
    return wanted


def _is_raw(size: int, wanted: Optional[TensorContract], shaped: bool, padded: Optional[bool]) -> bool:
    return wanted is not None and bool(wanted.dtype) and shaped and size in _sizes(wanted, padded)


def _sizes(wanted: TensorContract, padded: Optional[bool]) -> Tuple[int, int]:
    """Bytes of the valid and of the padded tensor, both the same where only one may be."""
    valid, whole = wanted.valid_count * np.dtype(wanted.dtype).itemsize, wanted.padded_bytes
    return (valid, whole) if padded is None else (whole, whole) if padded else (valid, valid)


# --- raw bytes ---------------------------------------------------------------------------------------------------------------


def _of_bytes(path: Path, size: int, wanted: Optional[TensorContract], shaped: bool, form: Optional[bool]) -> Dump:
    if wanted is None or not wanted.dtype or not shaped:
        raise ArtifactError(
            "a raw file does not say what it holds",
            "give the dtype and the shape, or the tensor's contract",
            file=path,
            expected="dtype and shape",
            found="{} bytes".format(size),
        )
    valid, padded = _sizes(wanted, form)
    if size not in (valid, padded):
        _refuse_size(path, size, wanted, valid, padded)
    if size == 0:
        return Dump(np.zeros(wanted.valid_shape, wanted.dtype), path)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(mapped) != size:
        _refuse_size(path, len(mapped), wanted, valid, padded)
    whole = size == wanted.padded_bytes and form is not False and len(wanted.valid_shape) > 0
    if whole:
        array = valid_view(mapped, wanted.dtype, wanted.valid_shape, wanted.strides, padded, str(path))
    else:
        array = np.frombuffer(mapped, np.dtype(wanted.dtype).newbyteorder("<")).reshape(wanted.valid_shape)
    array = _native(array)
    _check_order(array, path)
    return Dump(array, path, padded=whole and size != array.nbytes)


def _refuse_size(path: Path, size: int, wanted: TensorContract, valid: int, padded: int) -> NoReturn:
    expected = "{} bytes for {} {}".format(valid, list(wanted.valid_shape), wanted.dtype)
    if padded != valid:
        expected += ", or {} bytes with padding".format(padded)
    fits = []
    itemsize = np.dtype(wanted.dtype).itemsize
    for other in ("int8", "int16", "float16", "int32", "float32", "int64", "float64"):
        bytes_each = np.dtype(other).itemsize
        if bytes_each != itemsize and size * itemsize in (valid * bytes_each, padded * bytes_each):
            fits.append(other)
    found = "{} bytes".format(size)
    if fits:
        found += ": as many elements of {}".format(" or ".join(fits))
        message, next_step = "the file has the size of another dtype", "give the dtype the file was written in"
    elif size < valid:
        message, next_step = "the file is truncated", "run the tool that wrote it again, and check the disk space"
    else:
        message, next_step = "the file has the wrong size", "the file is of another model or tensor; run the tool that wrote it again"
    raise ArtifactError(message, next_step, file=path, tensor=wanted.name, expected=expected, found=found)


def _native(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _check_bools(array: np.ndarray, path: Path) -> None:
    for start, chunk in _chunks(array.view(np.uint8)):
        if chunk.max(initial=0) > 1:
            index = int(np.argmax(chunk > 1))
            raise ArtifactError(
                "a bool of the file is neither 0 nor 1",
                "give the dtype the file was written in",
                file=path,
                expected="0 or 1",
                found=int(chunk[index]),
                index=start + index,
            )


def _check_order(array: np.ndarray, path: Path) -> None:
    """Refuse floats that make sense only with their bytes swapped.

    A swapped float32 has a random exponent: every fifth is NaN, beyond 1e30 or below 1e-30. So at least 5 % such elements as read, and
    none at all of at least 16 distinct ones when swapped, is a file of the other byte order. Integers and float16 do not give it away.
    """
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8) or array.size < _ENOUGH:
        return
    bits = np.dtype("u{}".format(array.dtype.itemsize))
    sample = np.unique(_sample(array).view(bits)).view(array.dtype)  # as bits: NaN are distinct, and stay as they are
    low, high = _PLAUSIBLE[array.dtype.itemsize]

    def odd(values: np.ndarray) -> Tuple[int, int]:
        size = np.abs(values[values != 0])
        return int(np.count_nonzero(~((size >= low) & (size <= high)))), size.size

    strange, count = odd(sample)
    if count >= _ENOUGH and strange >= _IMPLAUSIBLE * count and odd(sample.byteswap())[0] == 0:
        raise ArtifactError(
            "the file looks big-endian",
            "swap its bytes, or write it little-endian; raw dumps of the tools are little-endian",
            file=path,
            expected="little-endian {}".format(array.dtype.name),
            found="{} of {} elements are NaN, huge or tiny as read, none with their bytes swapped".format(strange, count),
        )


def _sample(array: np.ndarray) -> np.ndarray:
    """Up to 65536 elements from all over an array, in runs of 1024 that touch few pages of a mapped file."""
    if array.size <= _SAMPLE:
        return array.reshape(-1).copy()
    starts = np.linspace(0, array.size - 1024, _SAMPLE // 1024).astype(np.int64)
    places = (starts[:, None] + np.arange(1024)).reshape(-1)
    return np.asarray(array[np.unravel_index(places, array.shape)])


# --- numpy files -------------------------------------------------------------------------------------------------------------


def _of_npy(path: Path, wanted: Optional[TensorContract], shaped: bool) -> Dump:
    try:
        with path.open("rb") as file:
            shape, fortran, dtype, offset = _npy_header(file)
            _check_npy(path, dtype, int(np.prod(shape, dtype=object)) * dtype.itemsize, os.fstat(file.fileno()).st_size - offset)
            if 0 in shape:
                array = np.zeros(shape, dtype)
            else:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                array = np.ndarray(shape, dtype, mapped, offset, order="F" if fortran else "C")
    except ArtifactError:
        raise
    except Exception as error:  # a damaged header fails in many ways
        _refuse_npy(path, error)
    array, padded = _fitted(_native(array), path, wanted, shaped)
    return Dump(array, path, padded=padded)


def _npy_header(file: Any) -> Tuple[Tuple[int, ...], bool, np.dtype, int]:
    """Shape, Fortran order, dtype and place of the data."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError("version {}.{} of the format".format(*version))
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if any(size < 0 for size in shape):
        raise ValueError("shape {}".format(shape))
    return shape, fortran, dtype, file.tell()


def _refuse_npy(path: Path, error: Exception) -> NoReturn:
    raise ArtifactError(
        "the .npy is damaged",
        "write it again with numpy.save",
        file=path,
        expected="a header of numpy.save and all elements it states",
        found=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
    ) from None


def _check_npy(path: Path, dtype: np.dtype, expected: int, found: int) -> None:
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise ArtifactError(
            "the array holds no plain numbers",
            "save an array of integers or floats; pickled objects are never loaded",
            file=path,
            expected="bool, integers or floats of up to 64 bits",
            found=dtype,
        )
    if expected != found:
        raise ArtifactError(
            "the .npy is truncated" if found < expected else "the .npy holds more than its header states",
            "write it again, and check the disk space",
            file=path,
            expected="{} bytes behind the header".format(expected),
            found="{} bytes".format(found),
        )


def read_archive(path: Union[str, Path]) -> Dict[str, np.ndarray]:
    """All arrays of an `.npz` by name, in their order; each is checked against its CRC.

    Raises:
        ArtifactError: the file is missing or damaged, or holds something else than plain arrays.
    """
    path = Path(path)
    arrays: Dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(str(path)) as archive:
            for member in archive.infolist():
                name = member.filename[:-4] if member.filename.endswith(".npy") else ""
                if not name or name in arrays:
                    raise ValueError("a second {}".format(name) if name else "a member {}".format(member.filename))
                content = archive.read(member)
                file = io.BytesIO(content)
                shape, fortran, dtype, offset = _npy_header(file)
                _check_npy(path, dtype, int(np.prod(shape, dtype=object)) * dtype.itemsize, len(content) - offset)
                array = np.frombuffer(content, dtype, offset=offset) if 0 not in shape else np.zeros(0, dtype)
                arrays[name] = _native(array.reshape(shape, order="F" if fortran else "C"))
    except ArtifactError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise ArtifactError(
            "the .npz cannot be read",
            "write it again with numpy.savez, and check the disk space",
            file=path,
            expected="an archive of .npy files",
            found=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
        ) from None
    return arrays


def _of_archive(path: Path, wanted: Optional[TensorContract], shaped: bool, key: str) -> Dump:
    arrays = read_archive(path)
    name = key
    if not key:
        name = wanted.name if wanted is not None and wanted.name in arrays else next(iter(arrays), "")
    if name not in arrays or (not key and len(arrays) > 1 and (wanted is None or name != wanted.name)):
        raise ArtifactError(
            "the .npz does not tell which of its arrays is meant" if not key else "the .npz has no such array",
            "give the key of one of its arrays",
            file=path,
            expected=key or "one array",
            found=", ".join(sorted(arrays)) or "no arrays",
        )
    array, padded = _fitted(arrays[name], path, wanted, shaped)
    return Dump(array, path, padded=padded)


def _fitted(array: np.ndarray, path: Path, wanted: Optional[TensorContract], shaped: bool) -> Tuple[np.ndarray, bool]:
    """An array that states its own shape and dtype, held against what is wanted; padding taken off."""
    if wanted is None:
        return array, False
    if wanted.dtype and array.dtype != np.dtype(wanted.dtype):
        raise ArtifactError(
            "the array has another dtype",
            "convert it before it is written; nothing is converted silently",
            file=path,
            tensor=wanted.name,
            expected=wanted.dtype,
            found=array.dtype,
        )
    if not shaped or array.shape == wanted.valid_shape:
        return array, False
    if wanted.aligned_shape and array.shape == wanted.aligned_shape:
        return array[tuple(slice(size) for size in wanted.valid_shape)], True
    if [size for size in array.shape if size != 1] == [size for size in wanted.valid_shape if size != 1]:
        return array.reshape(wanted.valid_shape), False
    expected = str(list(wanted.valid_shape))
    if wanted.aligned_shape:
        expected += ", or {} with padding".format(list(wanted.aligned_shape))
    raise ArtifactError(
        "the array has another shape",
        "the file is of another tensor, or in another layout",
        file=path,
        tensor=wanted.name,
        expected=expected,
        found=list(array.shape),
    )


# --- text --------------------------------------------------------------------------------------------------------------------


def _of_text(path: Path, wanted: Optional[TensorContract], shaped: bool, unterminated: bool, form: Optional[bool]) -> Dump:
    parsed = parse_numbers(path.read_bytes(), str(path))
    values, numbers, padded = parsed.values, parsed.values, False
    if wanted is not None and shaped:
        valid, whole = wanted.valid_count, wanted.valid_count
        if wanted.dtype:
            valid, whole = (size // np.dtype(wanted.dtype).itemsize for size in _sizes(wanted, form))
        if values.size not in (valid, whole):
            expected = "{} numbers for {}".format(valid, list(wanted.valid_shape))
            if whole != valid:
                expected += ", or {} with padding".format(whole)
            raise ArtifactError(
                "the text is truncated" if values.size < valid else "the text has the wrong count of numbers",
                "run the tool that wrote it again; check the disk space, and that the file is of this tensor",
                file=path,
                tensor=wanted.name,
                expected=expected,
                found="{} numbers".format(values.size),
            )
    if not parsed.format.complete and not unterminated:
        raise ArtifactError(
            "the text may be truncated: no separator follows its last number",
            "run the tool that wrote it again; if the file is complete, end it with a new line",
            file=path,
            expected="a new line at the end",
            found="{} numbers, the last is {}".format(values.size, values[-1]),
        )
    if wanted is not None and wanted.dtype:
        values = cast(values, wanted.dtype, str(path))
    if wanted is not None and shaped:
        if values.size != wanted.valid_count:
            item = np.dtype(wanted.dtype)
            if any(step % item.itemsize for step in wanted.strides):
                raise ArtifactError("the stated strides are no whole elements", file=path, expected=item.name, found=list(wanted.strides))
            values = valid_view(values.view(np.uint8), wanted.dtype, wanted.valid_shape, wanted.strides, values.nbytes, str(path))
            values, padded = _native(values), True
            steps = [step // item.itemsize * numbers.itemsize for step in wanted.strides]
            numbers = valid_view(numbers, numbers.dtype.name, wanted.valid_shape, steps, numbers.nbytes, str(path))
        else:
            values, numbers = values.reshape(wanted.valid_shape), numbers.reshape(wanted.valid_shape)
    return Dump(values, path, parsed.format, padded, numbers)


def cast(values: np.ndarray, dtype: str, what: str = "") -> np.ndarray:
    """Numbers of a text as the elements they were written from.

    Args:
        values: int64, uint64 or float64.
        dtype: numpy name of the elements. Decimals are rounded to the nearest float; nothing else may change a value.
        what: the file, named in errors.
    Raises:
        ArtifactError: a value is no value of the dtype; names the first one and its index.
    """
    item = np.dtype(dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        if item.kind == "f":
            result: np.ndarray = values.astype(item)
            wrong = ~np.isfinite(result) if values.dtype.kind == "f" else ~_same_integers(values, result)
        else:
            low, high = (0, 1) if item.kind == "b" else (int(np.iinfo(item).min), int(np.iinfo(item).max))
            if values.dtype.kind == "f":
                wrong = ~((values >= low) & (values <= high) & (values == np.rint(values)))
                wrong |= (values == float(high)) & (int(float(high)) != high)
            else:
                limits = np.iinfo(values.dtype)
                wrong = np.zeros(values.shape, bool)
                if low > limits.min:
                    wrong |= values < low
                if high < limits.max:
                    wrong |= values > high
            result = np.where(wrong, 0, values).astype(item) if wrong.any() else values.astype(item)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise ArtifactError(
            "a number of the text does not fit the dtype",
            "the file is of another tensor, or the dtype is wrong",
            file=what,
            expected=item.name,
            found=values.reshape(-1)[index].item(),
            index=index,
        )
    return result


def _same_integers(values: np.ndarray, floats: np.ndarray) -> np.ndarray:
    """Whether floats hold the integers they were made of exactly; values int64 or uint64."""
    limits = np.iinfo(values.dtype)
    wide = floats.astype(np.float64)
    inside = np.isfinite(wide) & (wide >= float(limits.min)) & (wide < float(limits.max))
    same: np.ndarray = inside & (np.where(inside, wide, 0.0).astype(values.dtype) == values)
    return same


# --- checks ------------------------------------------------------------------------------------------------------------------


def _chunks(array: np.ndarray) -> Iterator[Tuple[int, np.ndarray]]:
    """Pieces of bounded size in C order with the index of their first element; pages of a mapped file are given back."""
    pages = MappedPages(array)
    if array.size == 0:
        return
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            yield start, flat[start : start + _CHUNK]
            pages.read(_CHUNK * flat.itemsize)
        return
    start = 0
    pieces: Any = np.nditer(array, ["external_loop", "buffered"], order="C", buffersize=1 << 16)
    for piece in pieces:
        for first in range(0, piece.size, _CHUNK):  # what needs no buffer comes in one piece, of any size
            chunk = piece[first : first + _CHUNK]
            yield start, chunk
            start += chunk.size
            pages.read(chunk.nbytes)


def _check_finite(array: np.ndarray, path: Path) -> None:
    if array.dtype.kind != "f":
        return
    count, first, found = 0, -1, ""
    for start, chunk in _chunks(array):
        finite = np.isfinite(chunk)
        if not finite.all():
            if not count:
                place = int(np.argmin(finite))
                first, found = start + place, str(chunk[place])
            count += int(chunk.size - np.count_nonzero(finite))
    if count:
        index = tuple(int(place) for place in np.unravel_index(first, array.shape))
        raise ArtifactError(
            "the tensor holds NaN or infinity",
            "look at the operator that produced it",
            file=path,
            expected="finite numbers",
            found="{} of {} elements are NaN or infinite, the first is {}".format(count, array.size, found),
            index=list(index),
        )


# --- folders of dumps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DumpName:
    """What the name of a dump file says; `name` is empty where the build leaves it out. The tools write `/` of a name as `_`."""

    tool: str
    side: str
    index: int
    name: str
    format: str


def parse_name(name: str) -> Optional[DumpName]:
    """Tool (`hrt` or `hbdk`), side, index, tensor name and form (one of `FORMATS`) of a dump file's name; None for any other file."""
    match = DUMP.match(name) or SIMULATED.match(name)
    if match is None:
        return None
    tool = "hrt" if match.re is DUMP else "hbdk"
    return DumpName(tool, match.group("side"), int(match.group("index")), match.group("name") or "", match.group("format"))


def find_dumps(folder: Union[str, Path], side: str = "output", formats: Sequence[str] = FORMATS) -> Dict[int, Path]:
    """Dump files of a folder by tensor index, whichever tool wrote them.

    Args:
        folder: where the tool ran, or hbdk-model-verifier's subfolder that has `simulator_output` or `bpu_output` in it.
        side: output or input.
        formats: forms that are looked for; of several forms of one dump, the first of `FORMATS` is taken.
    Returns:
        {index: file}, in the order of the indices.
    Raises:
        ArtifactError: two files of one index that are not two forms of one dump, as a folder has that two builds of a model dumped to.
    """
    folder = Path(folder)
    found: Dict[int, List[Tuple[int, str, Path]]] = {}
    for place in (folder, *(folder / name for name in FOLDERS)):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            said = parse_name(path.name)
            if said is not None and said.side == side and said.format in formats:
                dump = "{} {} {}".format(said.tool, place, said.name)
                found.setdefault(said.index, []).append((FORMATS.index(said.format), dump, path))
    dumps = {}
    for index, files in sorted(found.items()):
        if len({dump for _, dump, _ in files}) > 1 or len({order for order, _, _ in files}) < len(files):
            raise ArtifactError(
                "there are two dumps of one tensor",
                "one is stale or of another tool: empty the folder and run again, or give the subfolder that is meant",
                file=folder,
                expected="one dump of {} {}".format(side, index),
                found=", ".join(str(path.relative_to(folder)) for _, _, path in files),
            )
        dumps[index] = min(files)[2]
    return dumps


# --- writing inputs ----------------------------------------------------------------------------------------------------------


def write_input(path: Union[str, Path], array: np.ndarray) -> None:
    """Write an input as hbdk-model-verifier and hrt_model_exec take it, atomically.

    Args:
        path: `.txt` holds one row of the last axis per line, as numpy.loadtxt reads it, with as many digits as bring every element
            back; `.npy` is what numpy.save writes; any other is raw little-endian bytes.
        array: valid elements (NHWC) in the model's dtype; finite.
    Raises:
        ArtifactError: nothing to write, no plain numbers, or NaN.
    """
    path = Path(path)
    if array.size == 0 or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ArtifactError(
            "an input cannot be written",
            "give integers or floats",
            file=path,
            expected="bool, integers or floats, at least one",
            found="{} {}".format(array.dtype, list(array.shape)),
        )
    _check_finite(array, path)
    temporary = path.with_name("{}.{}.part".format(path.name, os.getpid()))
    try:
        with temporary.open("wb") as file:
            if path.suffix.lower() == ".npy":
                np.save(file, np.ascontiguousarray(array))
            elif path.suffix.lower() == ".txt":
                digits = {2: 5, 4: 9, 8: 17}.get(array.dtype.itemsize, 0)
                form = "%.{}g".format(digits) if array.dtype.kind == "f" else "%d"
                np.savetxt(file, array.reshape(-1, array.shape[-1] if array.ndim else 1), fmt=form)
            else:
                file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
        os.replace(str(temporary), str(path))
    finally:
        if temporary.exists():
            temporary.unlink()
