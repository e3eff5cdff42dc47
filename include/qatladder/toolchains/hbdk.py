"""hbdk's own tools on an hbm: disassemble, estimate, simulate. One function per job, plain data in and out.

Runs wherever these tools are: the vendor environment, or a user's own OpenExplorer (Python 3.8; numpy alone).
"""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import ArtifactError, BrokenError
from qatladder.toolchains import hmct_tools


def describe(hbm: str, folder: str) -> dict[str, Any]:
    """What an hbm states of itself, and the compiler's estimate of its speed.

    Returns:
        as `hmct_tools.describe_hbm` and `hmct_tools.describe_performance` have it, in one.
    """
    file, work = Path(hbm), Path(folder)
    described = hmct_tools.describe_hbm(disassemble(file, work), file)
    return {**described, **estimate(file, described["name"], work)}


def estimate(hbm: Path, name: str, work: Path) -> dict[str, Any]:
    """hbdk-perf's estimate of an hbm; `name` is its model's."""
    run = hmct_tools.run_tool(["hbdk-perf", hbm, "-o", work], work)
    report = work / f"{name}.json"
    error = hmct_tools.hbm_error(run, "hbdk-perf", hbm)
    if error is not None or not report.is_file():
        raise error or BrokenError("hbdk-perf wrote no report", "read its console", kind="dump_missing", console=run.tail(), file=report)
    summary = json.loads(report.read_text(encoding="utf-8"))["summary"]
    return hmct_tools.describe_performance(summary, hbm.stat().st_size)


def simulate(hbm: str, inputs: dict[str, list[str]], folder: str) -> dict[str, str]:
    """Run an hbm on the instruction-level simulator, sample by sample.

    Args:
        inputs: per input feature one raw file per sample.
    Returns:
        {output feature: [N, ...] .npy of raw integers, valid shape without the batch axis}.
    """
    file, work = Path(hbm), Path(folder)
    described = hmct_tools.describe_hbm(disassemble(file, work), file)
    features = described["inputs"]
    if {item["name"] for item in features} != set(inputs):
        raise ArtifactError(
            "the hbm has other inputs",
            "feed it what compile_report states",
            expected=[item["name"] for item in features],
            found=sorted(inputs),
        )
    counts = {len(files) for files in inputs.values()}
    if len(counts) != 1 or 0 in counts:
        raise ArtifactError("the inputs hold no samples, or different numbers of them", "write all inputs again", found=sorted(counts))
    count = counts.pop()
    for item in features:
        for path in inputs[item["name"]]:
            _check_file(item, Path(path))
    arrays = {}
    for index, item in enumerate(described["outputs"]):
        shape = (count, *item["valid_shape"][1:])
        arrays[item["name"]] = np.lib.format.open_memmap(str(work / f"{index}.npy"), mode="w+", dtype=item["dtype"], shape=shape)

    def one(sample: int) -> None:
        place = work / f"sample_{sample}"
        place.mkdir(exist_ok=True)
        for index, array in enumerate(simulate_one(file, described, [inputs[item["name"]][sample] for item in features], place)):
            arrays[described["outputs"][index]["name"]][sample] = array[0]

    workers = min(4, len(os.sched_getaffinity(0)), count)
    with ThreadPoolExecutor(workers) as pool:
        for done, _ in enumerate(pool.map(one, range(count)), 1):
            if done == count or done % 10 == 0:
                print(f"simulated {done} of {count} samples")
    for array in arrays.values():
        array.flush()
    return {item["name"]: str(work / f"{index}.npy") for index, item in enumerate(described["outputs"])}


def simulate_one(hbm: Path, described: dict[str, Any], files: list[str], place: Path) -> list[Any]:
    """One sample on the simulator: [1, ...] integers per output feature."""
    links, sizes = [], []
    for index, (item, path) in enumerate(zip(described["inputs"], files)):
        image = item["source"] in ("pyramid", "resizer")
        height, width, channels = item["valid_shape"][1:]
        suffix = (".yuv" if channels == 3 else ".y") if image else ".bin"  # the simulator goes by the file's name
        link = place / f"input_{index}{suffix}"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(path).resolve())
        links.append(str(link))
        sizes.append(f"{height}x{width}" if image else "")
    output = place / "output"
    output.mkdir(exist_ok=True)
    for old in output.iterdir():
        old.unlink()
    size = ["--yuv-size", ",".join(sizes)] if any(sizes) else []
    run = hmct_tools.run_tool(["hbdk-sim", "-f", hbm, "-n", described["name"], "-i", ",".join(links), *size, "-o", output], place)
    (place / "hbdk-sim.log").write_text(run.console, encoding="utf-8")
    error = hmct_tools.hbm_error(run, "hbdk-sim", hbm)
    if error is not None:
        raise error
    return [_output_of(output, index, item) for index, item in enumerate(described["outputs"])]


def _output_of(folder: Path, index: int, item: dict[str, Any]) -> Any:
    """The simulator writes `/` and other characters of a feature's name as `_`; its index is what is unique."""
    found = sorted(folder.glob(f"hbdk_output{index}_feature_*_elem_int.txt"))
    file = found[0] if found else folder / f"hbdk_output{index}_feature_{re.sub(chr(92) + 'W', '_', item['name'])}_elem_int.txt"
    return hmct_tools.read_simulated(file, item["valid_shape"], item["dtype"])


def _check_file(item: dict[str, Any], file: Path) -> None:
    if item["source"] in ("pyramid", "resizer"):
        height, width, channels = item["valid_shape"][1:]
        expected = height * width * 3 // 2 if channels == 3 else height * width
    else:
        expected = int(np.prod(item["valid_shape"], dtype=np.int64)) * np.dtype(item["dtype"]).itemsize
    found = file.stat().st_size if file.is_file() else None
    if found != expected:
        raise ArtifactError(
            "an input file has the wrong size for the hbm" if found is not None else "an input file is missing",
            "write nv12 as H*3/2 x W bytes, ddr inputs as unpadded integers of the valid shape",
            file=file,
            feature=item["name"],
            expected=f"{expected} bytes for {item['valid_shape']} {item['dtype']} ({item['source']})",
            found=f"{found} bytes" if found is not None else "no file",
        )


def disassemble(hbm: Path, work: Path) -> list[dict[str, Any]]:
    """What hbdk-disas says of the models of an hbm."""
    if not hbm.is_file():
        raise ArtifactError("the hbm does not exist", "convert again", file=hbm)
    target = work / "disassembly.json"
    target.unlink(missing_ok=True)
    run = hmct_tools.run_tool(["hbdk-disas", hbm, "--json", "-o", target], work)
    error = hmct_tools.hbm_error(run, "hbdk-disas", hbm)
    if isinstance(error, BrokenError):
        raise _damage(hbm, work) or error
    if error is not None:
        raise error
    text = target.read_bytes() if target.is_file() else b""
    try:
        models = json.loads(text)
    except ValueError:
        if not text.rstrip().endswith(b"]"):
            raise _damage(hbm, work) or BrokenError(
                "hbdk-disas wrote no whole description of the hbm",
                "run this rung again; check the disk",
                kind="dump_truncated" if text else "dump_missing",
                console=run.tail(),
                file=hbm,
            ) from None
        models = None
    if not isinstance(models, list):  # of a truncated hbm, hbdk-disas 3.49.15 writes null, or names that are no text
        raise ArtifactError(
            "the hbm cannot be disassembled", "convert again; if it comes from the store, its hash no longer holds", file=hbm
        ) from None
    return models


def _damage(hbm: Path, work: Path) -> ArtifactError | None:
    """What is wrong with an hbm; None when nothing can be proved.

    hbdk-disas 3.49.15 ends with SIGSEGV, or writes half a description, on a damaged hbm, as it may on a sound one for other reasons.
    hbdk-perf checks the checksums; it may crash too, which proves nothing.
    """
    folder = work / "checksums"
    folder.mkdir(exist_ok=True)
    error = hmct_tools.hbm_error(hmct_tools.run_tool(["hbdk-perf", hbm, "-o", folder], work), "hbdk-perf", hbm)
    return error if isinstance(error, ArtifactError) else None
