"""Writes the three forms of one picture for a model, reads them back and proves that they are the same picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics.contract import InputContract, from_features, merge
from qatladder.numerics.dumps import read_tensor
from qatladder.numerics.forms import Proof, derive, prove
from qatladder.toolchains.onnx_contract import input_contracts
from qatladder.validation.contracts import load_contracts
from qatladder.zoo.schema import Entry


@dataclass(frozen=True)
class Written:
    """The forms of one input: files, what is in them, and the proof.

    Attributes:
        files: by form: float, int, hbm.
        shapes: by form, in words.
    """

    name: str
    files: dict[str, Path]
    shapes: dict[str, str]
    proof: Proof


def write_forms(
    entry: Entry, sources: dict[str, Path], out: Path, int_model: Path | None = None, stated: Path | None = None
) -> list[Written]:
    """Derive, write and prove the forms of each input.

    Args:
        sources: per input a picture (.png, .jpg ... or uint8 RGB .npy, [H, W, 3]) of exactly the model's size, or a featuremap
            (.npy, float32, training layout, with or without the batch axis).
        out: folder; per input `<name>.float.npy`, `<name>.int.npy` and the board's bytes `<name>.hbm.bin` (`.yuv`, `.y` for frames).
        int_model: the int ONNX: states layout and quantisation scale; needed for a featuremap.
        stated: what states the board's padding and strides: a model_info console or hbdk-disas JSON; without it bytes are not padded.
    Raises:
        ConfigError, ArtifactError: a source is no picture of the model's size, or too little is stated.
    """
    known = {spec.name for spec in entry.inputs}
    if unknown := sources.keys() - known:
        raise ConfigError(
            "the model has no such input", model=entry.model, expected=" | ".join(sorted(known)), found=", ".join(sorted(unknown))
        )
    if missing := known - sources.keys():
        raise ConfigError(
            "an input has no picture",
            model=entry.model,
            expected=", ".join(sorted(known)),
            found=", ".join(sorted(sources)) or "none",
            next_step=f"give {sorted(missing)[0]}=FILE",
        )
    of_int = {item.name: item for item in input_contracts(int_model)} if int_model else {}
    of_board = load_contracts(stated)["input"] if stated else []
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for index, spec in enumerate(entry.inputs):
        contract = spec.contract()
        if spec.name in of_int:
            contract = merge(contract, of_int[spec.name])
        feature = next((item for item in of_board if item.name == spec.name), of_board[index] if index < len(of_board) else None)
        if feature is not None and feature.dtype and spec.source == "ddr":
            contract = merge(contract, from_features([feature])[0])
        source = sources[spec.name]
        values = _picture(entry, contract, source, spec.height_width) if spec.is_image else _featuremap(contract, source)
        results.append(_write(spec.name, contract, values, out))
    return results


def _write(name: str, contract: InputContract, values: NDArray[Any], out: Path) -> Written:
    forms = derive(contract, values)
    frames = contract.source in ("pyramid", "resizer")
    suffix = {"nv12": ".yuv", "gray": ".y"}.get(contract.type_rt, ".bin") if frames else ".bin"
    files = {"float": out / f"{name}.float.npy", "int": out / f"{name}.int.npy", "hbm": out / f"{name}.hbm{suffix}"}
    for form, array in (("float", forms.training), ("int", forms.intermediate), ("hbm", forms.runtime)):
        part = files[form].with_name(files[form].name + ".part")
        with part.open("wb") as stream:
            if form == "hbm":
                stream.write(array.tobytes())
            else:
                np.save(stream, array)
        part.replace(files[form])
    proof = prove(
        contract,
        values,
        runtime=np.fromfile(files["hbm"], np.uint8).reshape(forms.runtime.shape),
        intermediate=read_tensor(files["int"]).array,
        training=read_tensor(files["float"]).array,
    )
    kinds = {
        "float": f"float32 {list(forms.training.shape)} {contract.layout}, {contract.type_train}",
        "int": f"{forms.intermediate.dtype} {list(forms.intermediate.shape)}, {contract.intermediate_type}",
        "hbm": f"{forms.runtime.nbytes} bytes, {contract.type_rt} from {contract.source}",
    }
    return Written(name, files, kinds, proof)


def _picture(entry: Entry, contract: InputContract, source: Path, size: tuple[int, int]) -> NDArray[Any]:
    if source.suffix == ".npy":
        array: NDArray[Any] = np.asarray(read_tensor(source).array)
    else:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(source) as image:
                array = np.asarray(image.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise ArtifactError(
                "the picture cannot be read",
                file=source,
                found=error,
                expected="png, jpg ... or uint8 RGB .npy",
                next_step="is it truncated?",
            ) from error
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.shape != (*size, 3) or array.dtype != np.uint8:
        raise ArtifactError(
            "the picture is not of the model's input size: nothing resizes it, as every resize gives other pixels",
            model=entry.model,
            input=contract.name,
            file=source,
            expected=f"uint8 {[*size, 3]} (height, width, RGB)",
            found=f"{array.dtype} {list(array.shape)}",
            next_step="resize it the way the training does, and save it as png",
        )
    return np.ascontiguousarray(array[None])


def _featuremap(contract: InputContract, source: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(read_tensor(source).array, dtype=np.float32)
    shape = tuple(contract.shape)
    if array.shape == shape[1:]:
        array = array[None]
    if array.shape[1:] != shape[1:]:
        raise ArtifactError(
            "the featuremap has another shape than the entry declares",
            input=contract.name,
            file=source,
            expected=list(shape),
            found=list(array.shape),
            next_step="save the adapter's preprocessed tensor as .npy",
        )
    return array
