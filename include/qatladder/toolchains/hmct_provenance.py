"""Was this hbm compiled from this int model? Answered without running either; runs in the vendor environment.

Comparing integers on samples cannot see every change of a weight: one step of one weight may round away on all of them. The
compiler's input, the hbir, can: hmct makes it from the int model alone and byte for byte the same each time (0.2 s for the sample
zoo), and the hbm carries the CRC-32 of the hbir it was compiled from. So the chain int model -> hbir -> hbm is proven
when the hbir made anew has the hbm's CRC-32.
"""

from __future__ import annotations

import zlib
from pathlib import Path


def contradiction(int_model: Path, march: str, sources: dict[str, str], crc: int, hbir: Path) -> str:
    """What speaks against the hbm coming from the int model; empty when it provably does.

    Args:
        int_model: quantized ONNX.
        march: as hb_mapper names it.
        sources: input_source (`pyramid`, `resizer`, `ddr`) per input of the hbm.
        crc: CRC-32 of the hbir, as the hbm states it.
        hbir: receives the hbir made anew.
    """
    import hmct.api  # type: ignore[import-not-found]  # noqa: F401  (sets up the libraries)
    import onnx
    from horizon_nn.common import HbdkDictParser  # type: ignore[import-not-found]
    from horizon_nn.compiler import HybridBuilder  # type: ignore[import-not-found]
    from horizon_nn.compiler.hbdk_onnx import hbdk_onnx  # type: ignore[import-not-found]
    from horizon_nn.ir import OnnxModel  # type: ignore[import-not-found]

    options = HbdkDictParser({"input-source": {**sources, "_default_value": "ddr"}})
    builder = HybridBuilder(OnnxModel(onnx.load(str(int_model))), march, options, None, False)
    if builder.number_of_submodels != 1:
        return f"the int model has {builder.number_of_submodels} parts for the BPU, the hbm has 1"
    hbdk_onnx(builder.get_submodel(0), str(hbir), march)
    found = zlib.crc32(hbir.read_bytes())
    return "" if found == crc else f"the int model leads to an hbir with CRC-32 {found:08x}, the hbm was compiled from {crc:08x}"
