"""Two realistic ladders: a digits classifier that ships, and a lane network fed raw pixels (rgb instead of rgb_128) at the int rung."""

from __future__ import annotations

from typing import Any

from qatladder.ladder import CHECKS, CheckResult, Evidence, LadderResult, Rung, RungResult, Status

QUESTIONS = {check.id: check.question for check in CHECKS}


def evidence(name: str, digit: str, size: int, store: str = "s3://qatladder/evidence") -> Evidence:
    sha256 = (digit * 64)[:64]
    return Evidence(name, sha256, size, f"{store}/{sha256[:2]}/{sha256}")


def check(check_id: str, status: Status = Status.PASSED, measured: str = "", expected: str = "", **rest: Any) -> CheckResult:
    return CheckResult(check_id, status, QUESTIONS[check_id], measured, expected, **rest)


def accuracy(rung: str, value: float, gate: dict[str, float], reference: tuple[str, float] | None = None, **rest: Any) -> RungResult:
    facts: dict[str, Any] = {"metric": "top1", "metrics": {"top1": value, "top5": min(1.0, value + 0.02)}, "count": 360, "gate": gate}
    if reference:
        facts["reference"] = {"rung": reference[0], "value": reference[1]}
    level = max([gate["min"]] if "min" in gate else [reference[1] - gate["max_drop"]] if reference else [0.0])
    status = Status.PASSED if value >= level else Status.FAILED
    checks = [check(f"{rung}.accuracy", status, f"top1 {value:.3f}", f">= {level:.3f}", values={"top1": value}, seconds=3.4)]
    return RungResult(Rung(rung), tuple(checks), facts=facts, started="2026-11-23T02:00:05+00:00", seconds=3.9, **rest)


COMPILE: dict[str, Any] = {
    "march": "bayes-e",
    "latency_ms": 0.1873,
    "fps": 5339.0,
    "ddr_mb": 0.2941,
    "size_mb": 0.4312,
    "operators": {"bpu": 11, "cpu": 0},
    "cpu_operators": [],
    "layers": [
        {"layer": "conv1", "ops": 14_450_688, "compute_us": 31.2, "load_store_us": 9.8},
        {"layer": "block1/conv", "ops": 37_748_736, "compute_us": 58.4, "load_store_us": 4.1},
        {"layer": "block2/conv", "ops": 18_874_368, "compute_us": 29.9, "load_store_us": 3.3},
        {"layer": "head", "ops": 81_920, "compute_us": 1.4, "load_store_us": 6.0},
    ],
    "inputs": [
        {
            "name": "image",
            "dtype": "uint8",
            "valid_shape": [1, 64, 64, 3],
            "aligned_shape": [1, 64, 64, 4],
            "stride": [16384, 256, 4, 1],
            "byte_size": 6144,
            "source": "pyramid",
        }
    ],
    "outputs": [
        {
            "name": "logits_quantized",
            "dtype": "int32",
            "valid_shape": [1, 1, 1, 10],
            "aligned_shape": [1, 1, 1, 16],
            "stride": [64, 64, 64, 4],
            "byte_size": 64,
            "source": "",
        }
    ],
    "versions": {"compiler": "3.49.15", "runtime": "3.15.55.0"},
    "problems": [],
}


def ship() -> LadderResult:
    int_rung = accuracy("int", 0.972, {"max_drop": 0.01}, ("qat", 0.975))
    int_rung = RungResult(
        Rung.INT,
        (
            check("int.input", measured="yuv444_128 of the same picture", expected="yuv444_128", seconds=0.4),
            *int_rung.checks,
            check(
                "int.fidelity",
                measured="cosine 0.999984, mean 0.21 LSB",
                expected="cosine >= 0.999, mean <= 1 LSB",
                values={"outputs": {"logits": {"cosine": 0.999984, "mean_lsb": 0.21}}},
                evidence=(evidence("probe_int_outputs.npz", "a1", 48_213),),
                seconds=1.1,
            ),
        ),
        products={"int": evidence("digits_quantized.onnx", "b2", 431_000)},
        facts={**int_rung.facts, "versions": {"hmct": "1.1.0", "horizon_tc_ui": "1.24.3"}, "identity": "b2" * 32},
        started="2026-11-23T02:00:20+00:00",
        seconds=9.7,
    )
    hbm_rung = RungResult(
        Rung.HBM,
        (
            check("hbm.compile", measured="0.187 ms, 0.29 MB DDR, 0 CPU operators", expected="<= 1 ms, 0 CPU operators", seconds=4.8),
            check("hbm.input", measured="0 of 24576 bytes differ", expected="0", seconds=0.2),
            check(
                "hbm.bit_exact",
                measured="0 of 40 integers differ",
                expected="0 (raw integers)",
                evidence=(evidence("sim_outputs.npz", "c3", 2_310, "https://store.example/evidence"),),
                seconds=1.9,
            ),
        ),
        products={"hbm": evidence("digits.hbm", "d4", 431_200)},
        facts={"compile": COMPILE},
        seconds=7.2,
    )
    board_rung = accuracy("board", 0.972, {"max_drop": 0.0}, ("int", 0.972))
    board_rung = RungResult(
        Rung.BOARD,
        (
            check("board.health", measured="bayes-e, hrt 3.15.55.0, idle, 1.2 GB free", expected="idle, hrt 3.15", seconds=2.2),
            check("board.runtime", measured="0 of 40 integers differ", expected="0 (raw integers)", seconds=4.0),
            *board_rung.checks,
            check("board.perf", measured="0.204 ms, 4821 fps", expected="<= 1 ms", seconds=6.1),
            check("board.quality", measured="8 of 8 expectations met", expected="8", seconds=4.1),
            check("board.app_input", Status.SKIPPED, reason="the entry names no on-board program", required=False),
            check("board.app_output", Status.SKIPPED, reason="the entry names no on-board program", required=False),
        ),
        facts={
            **board_rung.facts,
            "board": "rdkx5-01",
            "health": {"chip": "x5", "temperature_c": 51.5, "users": 0, "tools": {"hrt_model_exec": "1.24.1"}},
            "perf": {"latency_ms": 0.204, "fps": 4821.3, "frames": 200},
            "transfer": {"cached": True},
        },
        seconds=16.4,
    )
    return LadderResult(
        model="digits_cnn",
        version="3",
        target="bayes-e",
        march="bayes-e",
        toolchain="hmct",
        owner="perception-a",
        run_id="nightly-2026-11-23",
        rungs=(
            accuracy("float", 0.978, {"min": 0.95}),
            accuracy("calib", 0.97, {"max_drop": 0.01}, ("float", 0.978)),
            accuracy("qat", 0.975, {"max_drop": 0.01}, ("float", 0.978)),
            int_rung,
            hbm_rung,
            board_rung,
        ),
        started="2026-11-23T02:00:00+00:00",
        seconds=44.1,
    )


def no_ship() -> LadderResult:
    accurate = accuracy("int", 0.611, {"max_drop": 0.01}, ("qat", 0.934))
    failed = check(
        "int.input",
        Status.FAILED,
        "largest difference 128, 12288 of 12288 values differ",
        "0 (intermediate type rgb_128: value - 128 as int8)",
        reason="the int model was fed rgb, not rgb_128: every value is 128 too high",
        cause="the -128 of the intermediate type is missing in the input of the int model",
        next_steps=(
            "feed the int model value - 128 as int8 (qatladder.numerics.contract)",
            "check mean and scale of input <image> in the zoo entry: they belong into the compiled model, applied once",
            "compare hb_mapper's input_type_rt with type_rt of the entry",
        ),
        values={"max_difference": 128, "differing": 12288, "count": 12288},
        evidence=(
            evidence("probe_int_input.npz", "e5", 12_800),
            evidence("probe_runtime_input.npz", "f6", 12_801, "https://store.example/evidence"),
        ),
        seconds=0.42,
    )
    blocked = tuple(
        check(
            item.id,
            Status.SKIPPED,
            reason="int.input failed",
            required=item.id != "board.app_input",
        )
        for item in CHECKS
        if item.rung in (Rung.HBM, Rung.BOARD)
    )
    return LadderResult(
        model="lane_net",
        version="2026.11.2",
        target="x3",
        march="bernoulli2",
        toolchain="hmct",
        owner="lanes",
        run_id="nightly-2026-11-23",
        rungs=(
            accuracy("float", 0.941, {"min": 0.93}),
            accuracy("calib", 0.935, {"max_drop": 0.01}, ("float", 0.941)),
            accuracy("qat", 0.934, {"max_drop": 0.01}, ("float", 0.941)),
            RungResult(Rung.INT, (failed, *accurate.checks), facts=accurate.facts, seconds=8.8),
            RungResult(Rung.HBM, tuple(item for item in blocked if item.rung is Rung.HBM)),
            RungResult(Rung.BOARD, tuple(item for item in blocked if item.rung is Rung.BOARD)),
        ),
        started="2026-11-23T02:01:00+00:00",
        seconds=19.5,
    )


def undecided() -> LadderResult:
    """The board could not be reached; every rung before it passed."""
    good = ship()
    broken = check(
        "board.health",
        Status.BROKEN,
        reason="rdkx5-01 did not answer on port 22 within 10 s",
        cause="the board is off or its network is down",
        next_steps=("power-cycle rdkx5-01",),
    )
    return LadderResult(
        model="digits_cnn",
        version="2",
        target="bayes-e",
        rungs=(*good.rungs[:5], RungResult(Rung.BOARD, (broken,), facts={"board": "rdkx5-01"})),
        run_id=good.run_id,
        started=good.started,
        seconds=31.0,
    )


RUN: dict[str, Any] = {
    "id": "nightly-2026-11-23",
    "started": "2026-11-23T02:00:00+00:00",
    "seconds": 4021.7,
    "store": "s3://qatladder/evidence",
    "trigger": "schedule",
}
