"""One model input from the picture to every rung: what the float, int and hbm rungs must be fed so that all see the same.

    picture (uint8 RGB) ──> runtime bytes (nv12, ...) ──> intermediate type (yuv444_128, ...) ──> training tensor (float32)

The runtime bytes are what the board gets, and everything above is derived from them: what chroma subsampling loses is
lost for every rung alike. A featuremap starts from the training tensor and is quantised and padded instead.

An `InputContract` holds what one source states of an input: a zoo entry, an int ONNX, an hbm. What a source does not state is empty. The
statements of several sources are joined with `merge` and held against each other with `diff`; `numerics.forms` proves real tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics import colour
from qatladder.numerics.fingerprint import Fingerprint, fingerprint
from qatladder.numerics.tensor import TensorContract, dequantize, drift, pad, quantize, unpad

RUNTIME_TYPES: Dict[str, Tuple[str, ...]] = {
    "nv12": ("rgb", "bgr", "yuv444"),
    "yuv444": ("rgb", "bgr", "yuv444"),
    "rgb": ("rgb", "bgr"),
    "bgr": ("rgb", "bgr"),
    "gray": ("gray",),
    "featuremap": ("featuremap",),
}
"""Which `type_train` each `type_rt` can be converted to: hb_mapper's table (read in horizon_tc_ui 1.24.3)."""

SOURCE_TYPES: Dict[str, Tuple[str, ...]] = {
    "pyramid": ("nv12", "gray"),
    "resizer": ("nv12", "gray"),
    "ddr": ("yuv444", "rgb", "bgr", "gray", "featuremap"),
}
"""Which `type_rt` each input_source delivers: hb_mapper's table (read in horizon_tc_ui 1.24.3)."""

INTERMEDIATE_TYPES = {
    "nv12": "yuv444_128",
    "yuv444": "yuv444_128",
    "rgb": "rgb_128",
    "bgr": "bgr_128",
    "gray": "gray_128",
    "featuremap": "featuremap",
}
"""type_rt to the intermediate type the int model takes (note 1 of the vendor's consistency process)."""

QUANTISE_ROUNDING = {"hmct": "half_even", "openexplorer": "half_up"}
"""How a toolchain's int model quantises a featuremap: hmct's HzQuantize (measured), floor(x / scale + 0.5) of the QAT documents."""

ROW_ALIGNMENT = 16
"""Bytes a row of NV12 is a multiple of where rows are padded (documented)."""

GRAY_LEVEL_SHARE = 0.01
"""How far a declared and a real preprocessing may be apart, in gray levels of the picture."""


@dataclass(frozen=True)
class InputContract:
    """How one input is made, as one source states it; an empty field is not stated.

    Attributes:
        name: input name.
        type_rt: nv12, yuv444, rgb, bgr, gray or featuremap: the runtime type. An int ONNX states the intermediate type in its place.
        type_train: rgb, bgr, yuv444, gray or featuremap: what the float model was trained on.
        layout: NCHW or NHWC of the training tensor; `none` for a featuremap without spatial axes.
        mean, scale: per channel of `type_train`: tensor = (value - mean) * scale; empty for none.
        shape: of the training tensor, in `layout`; its first size is the batch the model is compiled for.
        source: input_source: pyramid, resizer or ddr.
        swing: full or studio, of a YUV runtime type.
        toolchain: hmct or openexplorer: whose colour coefficients (`colour.DECODERS`) and quantise rounding count.
        layout_rt: NHWC or NCHW of the runtime type and of the intermediate type (NV12 has one layout only); NHWC where nothing is stated.
        roi: (left, top, right, bottom) of the source resizer, see `colour.crop_nv12`; the runtime bytes hold the whole frame.
        bits: 8 or 16, of a quantised featuremap.
        rounding: how a featuremap is quantised, see `tensor.quantize`; empty for the toolchain's own rule.
        tensor: the runtime bytes of one inference: padding, strides, and a featuremap's quantisation scale. Of NV12 as
            `nv12_tensor` makes it; what tools state of NV12 instead (the logical picture) says nothing of its rows.
    """

    name: str
    type_rt: str
    type_train: str
    layout: str
    mean: Tuple[float, ...] = ()
    scale: Tuple[float, ...] = ()
    shape: Tuple[int, ...] = ()
    source: str = ""
    swing: str = "full"
    toolchain: str = "hmct"
    layout_rt: str = "NHWC"
    roi: Optional[colour.Region] = None
    bits: int = 8
    rounding: str = ""
    tensor: Optional[TensorContract] = None

    @property
    def is_image(self) -> bool:
        return self.type_rt != "featuremap"

    @property
    def tolerance(self) -> float:
        """How far two training tensors of the same picture may be apart: a hundredth of a gray level.

        Pictures have 256 levels; what is below is the number of digits somebody wrote a mean or scale with.
        """
        return GRAY_LEVEL_SHARE * max((abs(value) for value in self.scale), default=1.0)

    @property
    def intermediate_type(self) -> str:
        return INTERMEDIATE_TYPES.get(self.type_rt, self.type_rt)

    @property
    def height_width(self) -> Optional[Tuple[int, int]]:
        """(H, W) of an image input; None when no shape is stated."""
        sizes = self.nchw
        return (sizes[2], sizes[3]) if len(sizes) == 4 and self.is_image else None

    @property
    def nchw(self) -> Tuple[int, ...]:
        """The logical shape with channels before rows: of the training tensor, else of the runtime tensor; empty when none is stated."""
        if self.shape:
            return _nchw(self.shape, self.layout)
        if self.tensor is not None:
            return _nchw(self.tensor.valid_shape, self.tensor.layout)
        return ()

    @property
    def quantise_rounding(self) -> str:
        """The rounding a featuremap is quantised with: as stated, else the toolchain's."""
        if self.rounding or self.toolchain in QUANTISE_ROUNDING:
            return self.rounding or QUANTISE_ROUNDING[self.toolchain]
        raise ConfigError(
            "no rounding is stated, and none is known of this toolchain",
            input=self.name,
            expected="rounding, or toolchain {}".format(" | ".join(QUANTISE_ROUNDING)),
            found=self.toolchain or "neither",
        )

    def check(self) -> "InputContract":
        """The contract itself, when the vendor's tools support what it states.

        Raises:
            ConfigError: names the field, what goes with it, and what was found.
        """
        if self.type_rt not in RUNTIME_TYPES:
            raise ConfigError("no such runtime type", input=self.name, expected=" | ".join(RUNTIME_TYPES), found=self.type_rt or "none")
        if self.type_train not in RUNTIME_TYPES[self.type_rt]:
            raise ConfigError(
                "type_rt {} cannot be converted to this type_train".format(self.type_rt),
                input=self.name,
                expected=" | ".join(RUNTIME_TYPES[self.type_rt]),
                found=self.type_train,
            )
        if self.source and self.type_rt not in SOURCE_TYPES.get(self.source, ()):
            raise ConfigError(
                "the source {} does not deliver this type_rt".format(self.source),
                input=self.name,
                expected=" | ".join(SOURCE_TYPES.get(self.source, SOURCE_TYPES)),
                found=self.type_rt if self.source in SOURCE_TYPES else self.source,
            )
        if self.type_rt in ("nv12", "yuv444"):
            colour.check_swing(self.swing)
        if self.type_rt in ("nv12", "yuv444") and self.toolchain == "hmct" and self.swing == "studio":
            if self.type_rt != "nv12" or self.type_train == "yuv444":
                raise ConfigError(
                    "hmct knows studio swing (bt601_video) of nv12 for a model trained on rgb or bgr only",
                    input=self.name,
                    found="type_rt {}, type_train {}".format(self.type_rt, self.type_train),
                )
        if not self.is_image and self.bits not in (8, 16):
            raise ConfigError("integers of this width are not known", input=self.name, expected="8 | 16 bits", found=self.bits)
        if self.roi is not None:
            if self.source not in ("resizer", ""):
                raise ConfigError("only the source resizer has a region of interest", input=self.name, found=self.source)
            colour.check_roi(self.roi, self.height_width)
        return self

    # --- pictures ----------------------------------------------------------------------------------------------------------

    def runtime(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures as the board's input, without padding.

        Args:
            pictures: uint8 RGB, [N, H, W, 3]; of the source resizer the whole frames.
        Returns:
            uint8: nv12 [N, H * 3 / 2, W]; otherwise [N, H, W, C] or [N, C, H, W] by `layout_rt`, C = 1 of gray, else 3.
        """
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise ArtifactError(
                "an image sample is uint8 RGB, [H, W, 3]",
                input=self.name,
                found="{} {}".format(pictures.dtype, list(pictures.shape[1:])),
                next_step="fix `samples` of the adapter",
            )
        if self.type_rt == "nv12":
            return colour.rgb_to_nv12(pictures, self.swing)
        if self.type_rt == "rgb":
            return self._laid_out(pictures)
        if self.type_rt == "bgr":
            return self._laid_out(pictures[..., ::-1])
        if self.type_rt == "yuv444":
            return self._laid_out(colour.to_uint8(colour.rgb_to_yuv444(pictures, self.swing)))
        if self.type_rt == "gray":
            return self._laid_out(colour.to_uint8(colour.rgb_to_yuv444(pictures)[..., :1]))
        raise ConfigError("no runtime bytes are known for this type", type_rt=self.type_rt, input=self.name)

    def _laid_out(self, values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.layout_rt == "NCHW" else values)

    def intermediate(self, runtime: np.ndarray) -> np.ndarray:
        """The runtime type (uint8, without padding) to the int model's input: value - 128 as int8, in `layout_rt`.

        Of the source resizer with a `roi` the runtime is the whole frame, and the result its region.
        """
        if self.type_rt == "nv12":
            frames = runtime if self.roi is None else colour.crop_nv12(runtime, self.roi, self.height_width)
            return colour.nv12_to_intermediate(frames, layout=self.layout_rt or "NHWC")
        if self.roi is not None:
            left, top, right, bottom = colour.check_roi(self.roi, self.height_width)
            rows, columns = slice(top, bottom + 1), slice(left, right + 1)
            runtime = runtime[:, :, rows, columns] if self.layout_rt == "NCHW" else runtime[:, rows, columns]
        centred: np.ndarray = (np.ascontiguousarray(runtime) ^ np.uint8(128)).view(np.int8)
        return centred

    def picture(self, intermediate: np.ndarray) -> np.ndarray:
        """The intermediate tensor (in `layout_rt`) in the colours of training, gray levels: float64, NHWC, neither rounded nor clamped."""
        if self.layout_rt == "NCHW":
            intermediate = intermediate.transpose(0, 2, 3, 1)
        if self.intermediate_type == "yuv444_128" and self.type_train != "yuv444":
            rgb = colour.centered_yuv_to_rgb(intermediate, self.swing or "full", self.toolchain or "hmct")
        else:
            rgb = intermediate.astype(np.float64) + 128.0
            if self.type_rt == "bgr":
                rgb = rgb[..., ::-1]
        return rgb[..., ::-1] if self.type_train == "bgr" else rgb

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """Gray levels in the colours of training to the training tensor.

        Args:
            values: NHWC, any real dtype, channels in the order of `type_train`.
        Returns:
            float32 in `layout`: (values - mean) * scale.
        """
        tensor = values.astype(np.float64)
        if self.mean:
            tensor = tensor - np.asarray(self.mean)
        if self.scale:
            tensor = tensor * np.asarray(self.scale)
        if self.layout == "NCHW":
            tensor = tensor.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(tensor, dtype=np.float32)

    def training_tensor(self, intermediate: np.ndarray) -> np.ndarray:
        """The tensor the float model sees when fed what the int model is fed: float32 in `layout`."""
        return self.normalise(self.picture(intermediate))

    def training_values(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 RGB pictures [N, H, W, 3] in the colours of training, gray levels, NHWC; nothing is subsampled or rounded.

        YUV and gray for the toolchain openexplorer are what its `rgb2centered_yuv` and `rgb2gray` give (whole numbers), as that is what
        its users train on.
        """
        if self.roi is not None:
            left, top, right, bottom = self.roi
            pictures = pictures[:, top : bottom + 1, left : right + 1]
        if self.type_train == "rgb":
            return pictures
        if self.type_train == "bgr":
            return pictures[..., ::-1]
        if self.type_train == "gray":
            if self.toolchain == "openexplorer":
                return colour.rgb2centered_yuv(pictures, "full", axis=-1)[..., :1] + 128
            return colour.rgb_to_yuv444(pictures)[..., :1]
        if self.toolchain == "openexplorer":
            return colour.rgb2centered_yuv(pictures, self.swing or "full", axis=-1) + 128
        return colour.rgb_to_yuv444(pictures, self.swing or "full")

    def training_tensor_of_pictures(self, pictures: np.ndarray) -> np.ndarray:
        """The training tensor straight from uint8 RGB pictures, as this contract declares it (no chroma loss)."""
        return self.normalise(self.training_values(pictures))

    # --- featuremaps -------------------------------------------------------------------------------------------------------

    @property
    def quantisation(self) -> Tuple[Tuple[float, ...], int]:
        """(scale, axis) a featuremap is quantised with; the axis in the training tensor.

        Raises:
            ConfigError: no source stated a scale.
        """
        if self.tensor is None or not self.tensor.scale:
            raise ConfigError(
                "no source states the scale this featuremap is quantised with",
                input=self.name,
                next_step="merge the contract with the int ONNX's, which holds it",
            )
        if self.tensor.axis is None:
            return self.tensor.scale, -1
        return self.tensor.scale, _axis(self.tensor.axis, self.tensor.layout, self.layout)

    def quantise(self, values: np.ndarray) -> np.ndarray:
        """A featuremap in the training layout to the integers the BPU is fed: int8 or int16, same shape."""
        scale, axis = self.quantisation
        return quantize(values, scale, self.quantise_rounding, self.bits, axis)

    def dequantise(self, integers: np.ndarray) -> np.ndarray:
        """The inverse of `quantise`, as far as there is one: float32."""
        scale, axis = self.quantisation
        return dequantize(integers, scale, axis)

    # --- bytes -------------------------------------------------------------------------------------------------------------

    def pack(self, values: np.ndarray) -> np.ndarray:
        """The bytes of each inference, padded by the stated strides.

        Args:
            values: what `runtime` gives of an image (uint8), or `quantise` of a featuremap, [N, ...]; N a multiple of the model's batch.
        Returns:
            uint8, [inferences, bytes]. A tensor of int8 stands for value - 128: the hbm's own input of an image from ddr.
        Raises:
            ConfigError: the stated tensor cannot hold the values.
        """
        stated, order = self._placed(values)
        if values.dtype == np.uint8 and stated.dtype == "int8":
            values = (values ^ np.uint8(128)).view(np.int8)
        groups = values.transpose(order).reshape((-1, *stated.valid_shape))
        return np.stack([np.frombuffer(pad(group, stated.strides, stated.padded_bytes, self.name), np.uint8) for group in groups])

    def unpack(self, data: Union[np.ndarray, Sequence[bytes]], like: np.ndarray) -> np.ndarray:
        """The inverse of `pack`: the values in the bytes of each inference, padding left out.

        Args:
            data: uint8 [inferences, bytes], or one buffer per inference.
            like: values of the shape and dtype that the bytes shall be read as; only its first size may differ.
        Raises:
            ArtifactError: the buffers have other sizes than stated.
            ConfigError: the stated tensor cannot hold the values.
        """
        stated, order = self._placed(like)
        buffers = [item.tobytes() if isinstance(item, np.ndarray) else bytes(item) for item in data]
        read = [unpad(item, stated.dtype, stated.valid_shape, stated.strides, stated.padded_bytes, self.name) for item in buffers]
        values = np.stack(read).reshape((-1, *[like.shape[axis] for axis in order[1:]])).transpose(np.argsort(order))
        if like.dtype == np.uint8 and stated.dtype == "int8":
            values = np.ascontiguousarray(values).view(np.uint8) ^ np.uint8(128)
        return np.ascontiguousarray(values)

    def _placed(self, values: np.ndarray) -> Tuple[TensorContract, Tuple[int, ...]]:
        """What the bytes are stated to be, and the order of the values' axes in it; frames nothing is stated of are dense."""
        stated = self.tensor
        frames = self.type_rt == "nv12" or self.source in ("pyramid", "resizer")
        if stated is None or (frames and len(stated.valid_shape) != 3):
            size = int(np.prod(values.shape[1:], dtype=np.int64)) * (self.shape[0] if self.shape else 1)
            if stated is not None and not stated.dtype and stated.byte_size not in (0, size):
                raise ConfigError(
                    "the board's frame has another number of bytes than one without padded rows",
                    input=self.name,
                    expected="{} bytes".format(size),
                    found="{} bytes".format(stated.byte_size),
                    next_step="state the row stride (`nv12_tensor`)",
                )
            batch = self.shape[0] if self.shape else 1
            stated = TensorContract(self.name, values.dtype.name, (batch, *values.shape[1:]))
        if not stated.dtype:
            stated = replace(stated, dtype=values.dtype.name)
        order = tuple(range(values.ndim))
        layout = (self.layout_rt or "NHWC") if self.is_image else self.layout
        if _moves(layout, stated.layout or _layout_of(stated.valid_shape, values.shape, layout)) and values.ndim == 4:
            order = (0, 2, 3, 1) if layout == "NCHW" else (0, 3, 1, 2)
        sizes = [values.shape[axis] for axis in order[1:]]
        kinds = {values.dtype.name, "int8" if values.dtype == np.uint8 else values.dtype.name}
        if _plain(sizes) != _plain(stated.valid_shape[1:]) or len(values) % stated.valid_shape[0] or stated.dtype not in kinds:
            raise ConfigError(
                "the stated runtime tensor cannot hold the values",
                input=self.name,
                expected="{} {} {}".format(stated.dtype, list(stated.valid_shape), stated.layout).rstrip(),
                found="{} {} {}".format(values.dtype, list(values.shape), layout if values.ndim == 4 else "").rstrip(),
                next_step="compare the entry's shape, layout and batch with what the compiler states",
            )
        return stated, order


def _moves(layout: str, other: str) -> bool:
    """Whether axes move between two stated layouts."""
    return {layout, other} == {"NHWC", "NCHW"}


def _axis(axis: int, layout: str, other: str) -> int:
    """An axis of one layout in another one."""
    if not _moves(layout, other):
        return axis
    return ((0, 2, 3, 1) if layout == "NHWC" else (0, 3, 1, 2))[axis % 4]


def _layout_of(shape: Sequence[int], known: Sequence[int], layout: str) -> str:
    """Layout of a shape, by the same sizes in a stated layout; where both orders fit it is that one. Empty when none fits."""
    if len(shape) != 4 or len(known) != 4 or layout not in ("NHWC", "NCHW"):
        return ""
    if tuple(shape[1:]) == tuple(known[1:]):
        return layout
    moved = (known[2], known[3], known[1]) if layout == "NCHW" else (known[3], known[1], known[2])
    return {"NCHW": "NHWC", "NHWC": "NCHW"}[layout] if tuple(shape[1:]) == moved else ""


def _nchw(shape: Sequence[int], layout: str) -> Tuple[int, ...]:
    return (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 and layout == "NHWC" else tuple(shape)


def _plain(shape: Sequence[int]) -> List[int]:
    """A shape without its axes of size 1."""
    return [size for size in shape if size != 1]


def nv12_tensor(name: str, height: int, width: int, row_stride: int = 0, batch: int = 1) -> TensorContract:
    """The bytes of NV12 frames: [batch, H * 3 / 2, W] uint8 whose rows are `row_stride` bytes apart.

    Args:
        row_stride: bytes; 0 for rows without padding.
    Raises:
        ConfigError: odd sizes, or a stride below W or no multiple of 16.
    """
    if height % 2 or width % 2:
        raise ConfigError("NV12 has even height and width", input=name, found="{}x{}".format(height, width))
    if row_stride and (row_stride < width or row_stride % ROW_ALIGNMENT):
        raise ConfigError(
            "no row stride of NV12",
            input=name,
            expected="a multiple of {}, at least {}".format(ROW_ALIGNMENT, width),
            found=row_stride,
        )
    rows, step = height * 3 // 2, row_stride or width
    return TensorContract(name, "uint8", (batch, rows, width), (batch, rows, step), (rows * step, step, 1), batch * rows * step)


# --- statements of several sources ---------------------------------------------------------------------------------------------


def from_features(features: Sequence[TensorContract]) -> Tuple[InputContract, ...]:
    """The inputs of an hbm, from its features as the toolchain reads them (`hbdk-disas --json`): name, source, type and padding.

    A picture from pyramid or resizer is N, H, W, C. A tensor from ddr keeps the order of axes the int model has (seen on hbdk 3.49.15:
    a featuremap [1, 8, 16, 50] in NCHW is listed so), which the hbm does not state; `merge` tells it from the other sources' shapes.
    """
    found = []
    for feature in features:
        if len(feature.valid_shape) == 4 and not feature.layout and feature.source in ("pyramid", "resizer"):
            feature = replace(feature, layout="NHWC")
        bits = 8 * np.dtype(feature.dtype).itemsize if feature.dtype and np.dtype(feature.dtype).kind in "iu" else 0
        found.append(_stated(feature.name, source=feature.source, bits=bits, tensor=feature))
    return tuple(found)


def _stated(name: str, **known: Any) -> InputContract:
    """A contract that states nothing but what is given."""
    blank: Dict[str, Any] = {"type_rt": "", "type_train": "", "layout": "", "swing": "", "toolchain": "", "layout_rt": "", "bits": 0}
    return InputContract(name, **{**blank, **known})


def merge(first: InputContract, *others: InputContract) -> InputContract:
    """One contract of several statements: each field from the first that states it.

    Of the runtime tensor, shape and padding come together, from the first that states strides (else the first tensor), and so do a
    quantisation scale and its axis. A layout nobody states of it is told from the same sizes in a layout that is stated. What sources
    contradict is not lost but asked for with `diff`.
    """
    sources = (first, *others)
    changes: Dict[str, Any] = {}
    for field in fields(first):
        stated = [getattr(source, field.name) for source in sources if not _is_empty(getattr(source, field.name))]
        if stated and field.name != "tensor":
            changes[field.name] = stated[0]
    tensors = [source.tensor for source in sources if source.tensor is not None]
    if tensors:
        base = next((tensor for tensor in tensors if tensor.stride), tensors[0])
        scaled = next((tensor for tensor in tensors if tensor.scale or any(tensor.shift)), base)
        layout = base.layout
        known = [(source.shape, source.layout) for source in sources] + [(tensor.valid_shape, tensor.layout) for tensor in tensors]
        for shape, stated_layout in known:
            layout = layout or _layout_of(base.valid_shape, shape, stated_layout)
        axis = None if scaled.axis is None else _axis(scaled.axis, scaled.layout, layout)
        changes["tensor"] = replace(
            base,
            dtype=base.dtype or next((tensor.dtype for tensor in tensors if tensor.dtype), ""),
            source=base.source or changes.get("source", ""),
            layout=layout,
            scale=scaled.scale,
            shift=scaled.shift,
            zero_point=scaled.zero_point,
            axis=axis,
        )
    return replace(first, **changes)


def _is_empty(value: Any) -> bool:
    return value is None or (not isinstance(value, TensorContract) and value in ("", (), 0))


def diff(expected: InputContract, found: InputContract, ignore: Sequence[str] = ()) -> Dict[str, Tuple[Any, Any]]:
    """Contract drift: fields both contracts state and state differently.

    A shape is compared as N, C, H, W whatever the layouts; mean and scale within the digits somebody wrote them with; a runtime type with
    an intermediate type as intermediate types; a runtime tensor by `tensor.drift` (`tensor.dtype`, `tensor.scale` ...), its padding only
    with one of the same layout.

    Args:
        ignore: fields not compared, such as `name`, which compilers change.
    Returns:
        {field: (expected, found)}, empty when nothing contradicts.
    """
    differences: Dict[str, Tuple[Any, Any]] = {}

    def hold(name: str, ours: Any, theirs: Any, same: bool) -> None:
        if name not in ignore and not _is_empty(ours) and not _is_empty(theirs) and not same:
            differences[name] = (ours, theirs)

    if expected.type_rt in RUNTIME_TYPES and found.type_rt in RUNTIME_TYPES:
        hold("type_rt", expected.type_rt, found.type_rt, expected.type_rt == found.type_rt)
    else:
        ours, theirs = expected.intermediate_type, found.intermediate_type
        hold("intermediate_type", ours, theirs, ours == theirs)
    yuv = "yuv444_128" in (expected.intermediate_type, found.intermediate_type) or not (expected.type_rt or found.type_rt)
    featuremaps = "featuremap" in (expected.type_rt, found.type_rt)
    for name in ("name", "type_train", "layout", "source", "swing", "toolchain", "layout_rt", "roi", "bits", "rounding"):
        if (name == "swing" and not yuv) or (name in ("bits", "rounding") and not featuremaps) or (name == "layout_rt" and featuremaps):
            continue
        ours, theirs = getattr(expected, name), getattr(found, name)
        hold(name, ours, theirs, ours == theirs)
    hold("shape", expected.nchw, found.nchw, _same_shape(expected, found))
    for name in ("mean", "scale"):
        ours, theirs = getattr(expected, name), getattr(found, name)
        fit = len(ours) == len(theirs) or 1 in (len(ours), len(theirs))
        hold(name, ours, theirs, fit and bool(np.allclose(ours, theirs, rtol=1e-5)))
    if expected.tensor is not None and found.tensor is not None:
        skipped = {"name", "source"}
        if len(expected.tensor.valid_shape) != len(found.tensor.valid_shape) or expected.tensor.layout != found.tensor.layout:
            skipped |= {"valid_shape", "aligned_shape", "stride", "byte_size", "layout", "axis"}
        for name, (ours, theirs) in drift(expected.tensor, found.tensor, tuple(skipped)).items():
            hold("tensor." + name, ours, theirs, False)
    return differences


def _same_shape(expected: InputContract, found: InputContract) -> bool:
    """Whether two logical shapes agree: in their layouts where both are stated, else in any order of channels and rows."""
    ours, theirs = expected.nchw, found.nchw
    if _plain(ours) == _plain(theirs):
        return True
    unstated = [item for item in (expected, found) if not item.shape and item.tensor is not None and not item.tensor.layout]
    return bool(unstated) and len(ours) == 4 and bool(_layout_of(theirs, ours, "NCHW"))


# --- mistakes teams make -------------------------------------------------------------------------------------------------------


def explain_difference(contract: InputContract, pictures: np.ndarray, trained: np.ndarray, tolerance: float) -> Fingerprint:
    """Which one mistake in the contract explains what the training code really does?

    Each mistake teams make is undone in a copy of the contract; the first copy that reproduces the training tensor names
    it. When none does, the shape of the difference is asked (`compare.fingerprint`).

    Args:
        contract: as declared.
        pictures: uint8 RGB, [N, H, W, 3].
        trained: what the training code makes of them, float32 in the contract's layout.
        tolerance: largest absolute difference that still counts as equal.
    """
    for cause, detail, variant in mistakes(contract):
        guess = variant.training_tensor_of_pictures(pictures)
        if guess.shape == trained.shape and float(np.abs(guess - trained).max()) <= tolerance:
            return Fingerprint(cause, 1.0, detail)
    return fingerprint(trained, contract.training_tensor_of_pictures(pictures), 1 if contract.layout == "NCHW" else -1)


def mistakes(contract: InputContract) -> Iterator[Tuple[str, str, InputContract]]:
    """(cause, what is wrong in words, the contract without it), most frequent first."""
    mean, scale = contract.mean, contract.scale
    other = {"rgb": "bgr", "bgr": "rgb"}.get(contract.type_train)
    inverse = tuple(1.0 / value for value in scale) if all(scale) else scale
    if other:
        detail = "type_train is declared {}, the training code feeds {}".format(contract.type_train, other)
        yield "channel_swap", detail, replace(contract, type_train=other)
        yield (
            "channel_swap",
            detail + ", with mean and scale in that order",
            replace(contract, type_train=other, mean=mean[::-1], scale=scale[::-1]),
        )
        yield "channel_swap", "mean and scale are listed in {} order".format(other), replace(contract, mean=mean[::-1], scale=scale[::-1])
    if contract.intermediate_type == "yuv444_128" and contract.type_train == "yuv444":
        swing = {"full": "studio", "studio": "full"}.get(contract.swing, "full")
        yield "swing", "swing is declared {}, the training code uses {}".format(contract.swing, swing), replace(contract, swing=swing)
    yield "offset", "a mean is declared, the training code subtracts none", replace(contract, mean=())
    yield (
        "offset",
        "mean is declared for values 0 to 1, the pictures have 0 to 255",
        replace(contract, mean=tuple(255 * value for value in mean)),
    )
    yield "offset", "the training code subtracts 128, no mean is declared", replace(contract, mean=(128.0,))
    yield "scale", "a scale is declared, the training code uses none", replace(contract, scale=())
    yield (
        "scale",
        "scale is declared for values 0 to 1, the pictures have 0 to 255",
        replace(contract, scale=tuple(value / 255 for value in scale)),
    )
    yield (
        "scale",
        "scale holds the standard deviation; the toolchain multiplies by it, so it must hold 1 / std",
        replace(contract, scale=inverse),
    )
    yield (
        "scale",
        "mean and scale hold mean and std for values 0 to 1; the toolchain wants 255 * mean and 1 / (255 * std)",
        replace(contract, mean=tuple(255 * value for value in mean), scale=tuple(value / 255 for value in inverse)),
    )
    yield "scale", "the training code divides by 255, no scale is declared", replace(contract, scale=(1 / 255,))
