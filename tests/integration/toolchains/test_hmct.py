"""The hmct toolchain on the real converter, compiler and simulator."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import numpy_helper
from tests.integration.toolchains import nets

from qatladder.errors import ArtifactError, BrokenError, ToolchainError

pytestmark = pytest.mark.vendor


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def fake_quant(net: torch.nn.Module, tensors: np.ndarray) -> list[np.ndarray]:
    """The QAT model's outputs, [N, ...] each."""
    with torch.no_grad():
        answers = [net(torch.from_numpy(tensor[None])) for tensor in tensors]
    answers = [answer if isinstance(answer, tuple) else (answer,) for answer in answers]
    return [np.concatenate([answer[index].numpy() for answer in answers]) for index in range(len(answers[0]))]


class TestFidelity:
    """QAT against the int model: the quantisation that was trained is the one that was built."""

    def assert_close(self, expected: np.ndarray, found: np.ndarray) -> None:
        assert found.shape == expected.shape
        lsb = np.abs(expected).max() / 127
        assert cosine(expected, found) > 0.999
        assert np.abs(expected - found).mean() < lsb

    def test_image(self, image, pictures) -> None:
        found = image.run_int({"data": nets.yuv444_128(pictures)}, raw=False)
        assert set(found) == {"logits", "map"}
        for name, expected in zip(("logits", "map"), fake_quant(image.net, nets.training_tensor(pictures)), strict=True):
            self.assert_close(expected, found[name])

    def test_featuremap(self, featuremap, features) -> None:
        found = featuremap.run_int({"data": features}, raw=False)
        for name, expected in zip(("logits", "map"), fake_quant(featuremap.net, features), strict=True):
            self.assert_close(expected, found[name])

    def test_the_measure_tells_another_model_apart(self, featuremap, features) -> None:
        """The same bound fails for a net of other weights, so passing it means something."""
        other = nets.build(nets.Residual(8), [(tensor[None],) for tensor in features], seed=1)
        found = featuremap.run_int({"data": features}, raw=False)
        assert cosine(fake_quant(other, features)[1], found["map"]) < 0.9

    def test_every_scale_was_compared(self, image, featuremap) -> None:
        # the scales of 5 activations and 5 weights of Residual, and the integers of its 5 weights
        for converted in (image, featuremap):
            assert converted.log[-1].startswith("15 scales and weights of the int model equal the exported model's")


class TestBitExact:
    """The int model against the hbm on the simulator: integers, raw."""

    def assert_equal(self, integers: dict[str, np.ndarray], simulated: dict[str, np.ndarray]) -> None:
        assert simulated
        for name, array in simulated.items():
            assert array.dtype == integers[name].dtype
            assert array.shape == integers[name].shape
            assert len(np.unique(array)) > 10  # the outputs carry something
            np.testing.assert_array_equal(array, integers[name])

    def test_pyramid_on_bayes_e(self, image, pictures) -> None:
        integers = image.run_int({"data": nets.yuv444_128(pictures)})
        assert image.report().march == "bayes-e"
        self.assert_equal(integers, image.simulate({"data": pictures}))

    def test_ddr_on_bayes(self, featuremap, features) -> None:
        described = featuremap.described().inputs[0]
        integers = featuremap.run_int({"data": features})
        quantised = np.clip(np.rint(features / np.float32(described.scale[0])), -128, 127).astype(np.int8)
        np.testing.assert_array_equal(quantised, integers[described.raw_name])  # half to even, as HzQuantize
        assert featuremap.report().march == "bayes"
        self.assert_equal(integers, featuremap.simulate({described.raw_name: quantised}))

    def test_ties_round_to_even(self, featuremap) -> None:
        described = featuremap.described().inputs[0]
        ties = (np.arange(8 * 16 * 50).reshape(1, 8, 16, 50) % 200 - 100 + 0.5).astype(np.float32) * np.float32(described.scale[0])
        integers = featuremap.run_int({"data": ties})[described.raw_name]
        exact = ties / np.float32(described.scale[0])
        ties_only = exact % 1 == 0.5  # multiplication by the scale and division by it do not always give the half back
        assert ties_only.mean() > 0.5
        np.testing.assert_array_equal(integers[ties_only], np.rint(exact[ties_only]).astype(np.int8))
        assert (integers[ties_only] % 2 == 0).all()

    def test_a_dequantised_output_is_its_integers_times_its_scale(self, image, pictures) -> None:
        described = {item.name: item for item in image.described().outputs}
        found = image.run_int({"data": nets.yuv444_128(pictures)})
        for name in ("logits", "map"):
            item = described[name]
            shape = [-1 if axis == item.axis else 1 for axis in range(len(item.raw_shape))]
            value = found[item.raw_name].astype(np.float32) * np.array(item.scale, np.float32).reshape(shape)
            np.testing.assert_array_equal(value.reshape(found[name].shape), found[name])
            assert item.tail == (("Reshape",) if name == "logits" else ())

    def test_one_changed_weight_breaks_it(self, image, pictures, tmp_path: Path) -> None:
        model = onnx.load(str(image.conversion.products["int"]))
        weight = next(item for item in model.graph.initializer if item.name.endswith("weight_quantized") and item.dims[0] == 6)
        values = numpy_helper.to_array(weight).copy()
        index = np.unravel_index(np.abs(values).argmin(), values.shape)
        values[index] += 1
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        onnx.save(model, str(tmp_path / "changed.onnx"))
        changed = image.run_int({"data": nets.yuv444_128(pictures)}, int_model=tmp_path / "changed.onnx")
        simulated = image.simulate({"data": pictures})
        differing = [name for name in simulated if not np.array_equal(simulated[name], changed[name])]
        assert differing == [next(item.raw_name for item in image.described().outputs if item.name == "map")]

    @pytest.mark.parametrize(
        ("name", "spec", "march"),
        [
            ("rgb", {"type_train": "rgb", "type_rt": "rgb", "source": "ddr", "shape": [1, 3, 32, 50], "mean": [128.0]}, "bayes"),
            ("yuv444", {"type_train": "rgb", "type_rt": "yuv444", "source": "ddr", "shape": [1, 3, 32, 64]}, "bayes-e"),
            (
                "gray",
                {"type_train": "gray", "type_rt": "gray", "source": "pyramid", "shape": [1, 1, 32, 64], "scale": [0.0078125]},
                "bayes-e",
            ),
            ("resizer", {"type_train": "bgr", "type_rt": "nv12", "source": "resizer", "shape": [1, 3, 30, 50]}, "bayes"),
            ("bernoulli2", {"type_train": "rgb", "type_rt": "nv12", "source": "pyramid", "shape": [1, 3, 32, 64]}, "bernoulli2"),
        ],
    )
    def test_other_inputs(self, convert, name: str, spec: dict, march: str) -> None:
        rng = np.random.default_rng(9)
        shape = spec["shape"]
        entry = nets.entry(name, [{"name": "data", **spec}], march)
        converted = convert(nets.Head(shape[1]), entry, [((rng.uniform(0, 255, shape)).astype(np.float32),)])
        described, feature = converted.described().inputs[0], converted.report().inputs[0]
        assert (described.dtype, feature.source) == ("int8", spec["source"])
        if spec["type_rt"] == "nv12":
            fed = rng.integers(0, 256, (2, shape[2] * 3 // 2, shape[3]), dtype=np.uint8)
            integers = nets.yuv444_128(fed)
        else:
            picture = rng.integers(0, 256, (2, *described.shape[1:]), dtype=np.uint8)
            integers = (picture.astype(np.int16) - 128).astype(np.int8)
            fed = picture if spec["source"] == "pyramid" else integers
        self.assert_equal(converted.run_int({"data": integers}), converted.simulate({"data": fed}))

    def test_pools_gemm_concat_upsampling_and_transposed_conv(self, convert, pictures) -> None:
        entry = nets.entry("necks", [nets.nv12_input(32, 64)], "bayes")
        tensors = nets.training_tensor(pictures)
        converted = convert(nets.Necks(), entry, [(tensor[None],) for tensor in tensors], ("map", "flat", "vector"))
        integers = converted.run_int({"data": nets.yuv444_128(pictures)})
        for name, expected in zip(("map", "flat", "vector"), fake_quant(converted.net, tensors), strict=True):
            assert cosine(expected, integers[name]) > 0.999
        report = converted.report()
        assert report.operators["cpu"] == 0
        simulated = converted.simulate({"data": pictures})
        assert len(simulated) == 3
        for name, array in simulated.items():
            np.testing.assert_array_equal(array, integers[name])

    def test_two_inputs(self, convert, pictures) -> None:
        rng = np.random.default_rng(10)
        vectors = rng.normal(0, 1, (4, 8)).astype(np.float32)
        entry = nets.entry(
            "two", [{**nets.nv12_input(32, 64), "name": "picture"}, nets.featuremap_input(1, 8, name="vector", layout="none")], "bayes-e"
        )
        tensors = nets.training_tensor(pictures)
        converted = convert(nets.TwoInputs(), entry, [(a[None], b[None]) for a, b in zip(tensors, vectors, strict=True)])
        integers = converted.run_int({"picture": nets.yuv444_128(pictures), "vector": vectors})
        raw = {item.name: item.raw_name for item in converted.described().inputs}
        simulated = converted.simulate({"picture": pictures, raw["vector"]: integers[raw["vector"]]})
        self.assert_equal(integers, simulated)

    def test_torch_ao_conv_bn(self, hmct, tmp_path: Path, pictures) -> None:
        """torch.ao's own QAT modules, batch norm inside: its Conv -> Div -> BatchNormalization is folded, not requantised."""
        from torch.ao import quantization as ao

        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
                self.conv, self.norm, self.relu = torch.nn.Conv2d(3, 16, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
                self.head = torch.nn.Conv2d(16, 6, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.dequant(self.head(self.relu(self.norm(self.conv(self.quant(x))))))

        symmetric = {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8}
        activation = ao.FakeQuantize.with_args(observer=ao.MovingAverageMinMaxObserver, qscheme=torch.per_tensor_symmetric, **symmetric)
        weight = ao.FakeQuantize.with_args(
            observer=ao.MovingAveragePerChannelMinMaxObserver, qscheme=torch.per_channel_symmetric, ch_axis=0, **symmetric
        )
        torch.manual_seed(3)
        net = ao.fuse_modules_qat(Net().train(), [["conv", "norm", "relu"]])
        net.qconfig = ao.QConfig(activation=activation, weight=weight)
        net = ao.prepare_qat(net)
        tensors = nets.training_tensor(pictures)
        for _ in range(8):
            net(torch.from_numpy(tensors))
        net.eval()
        net.apply(ao.disable_observer)
        nets.export(net, (tensors[:1],), tmp_path / "ao.onnx", ["data"], ["out"])
        assert "BatchNormalization" in {node.op_type for node in onnx.load(str(tmp_path / "ao.onnx")).graph.node}
        entry = nets.entry("ao", [nets.nv12_input(32, 64)], "bayes-e")
        conversion = hmct.convert(entry, entry.targets[0], tmp_path / "ao.onnx", tmp_path / "convert", lambda line: None)
        np.save(tmp_path / "x.npy", nets.yuv444_128(pictures))
        (tmp_path / "run").mkdir()
        found = hmct.run_int(conversion.products["int"], {"data": tmp_path / "x.npy"}, tmp_path / "run", False, lambda line: None)
        assert cosine(fake_quant(net, tensors)[0], np.load(found["out"])) > 0.999


class TestConversion:
    def test_versions_are_those_of_the_installed_tools(self, hmct, image) -> None:
        assert image.conversion.versions == hmct.versions()
        assert set(hmct.versions()) == {"hb_mapper", "horizon_nn", "hbdk", "hbdk_runtime", "environment"}
        assert all(re.fullmatch(r"\d+(\.\d+)+|[0-9a-f]{64}", version) for version in hmct.versions().values())
        assert image.report().versions == {key: hmct.versions()[key] for key in ("hbdk", "hbdk_runtime")}

    def test_products(self, image) -> None:
        products = image.conversion.products
        assert set(products) == {"int", "hbm", "bin", "hbir", "config", "log", "perf_json", "perf_html"}
        assert all(path.stat().st_size > 100 for path in products.values())
        assert b"hbm" in products["hbm"].read_bytes()[:16]
        assert products["hbm"].read_bytes() in products["bin"].read_bytes()

    def test_identity_repeats(self, image, hmct, tmp_path: Path) -> None:
        """The int ONNX and the hbir repeat in another folder; the bin does not, so it must not be the identity."""
        again = hmct.convert(image.entry, image.entry.targets[0], image.onnx, tmp_path / "elsewhere", lambda line: None)
        assert again.identity == image.conversion.identity
        for role in ("int", "hbir", "config"):
            assert again.products[role].read_bytes() == image.conversion.products[role].read_bytes(), role
        assert again.products["bin"].read_bytes() != image.conversion.products["bin"].read_bytes()

    def test_configuration(self, image, featuremap) -> None:
        document = yaml.safe_load(image.conversion.products["config"].read_text())
        assert document["calibration_parameters"] == {"calibration_type": "load"}
        assert document["model_parameters"]["march"] == "bayes-e"
        assert document["input_parameters"]["mean_value"] == "123.675 116.28 103.53;"
        assert document["compiler_parameters"]["input_source"] == {"data": "pyramid"}
        document = yaml.safe_load(featuremap.conversion.products["config"].read_text())
        assert document["input_parameters"]["norm_type"] == "no_preprocess;"
        assert "mean_value" not in document["input_parameters"]

    def test_report(self, image, featuremap) -> None:
        report = image.report()
        assert report.operators == {"bpu": 7, "cpu": 0, "rim": 3}  # preprocess, 5 convs, pool; 2 dequantise, 1 reshape
        assert report.cpu_operators == ()
        assert report.problems == ()
        assert 0 < report.latency_ms < 1
        assert report.fps == pytest.approx(1000 / report.latency_ms, rel=0.01)
        assert 0 < report.ddr_mb < 1
        assert report.size_mb == image.conversion.products["hbm"].stat().st_size / 1e6
        assert report.layers[0]["layer"] == "HZ_PREPROCESS_FOR_data"
        assert sum(layer["ops"] for layer in report.layers) > 1e6
        (feature,) = report.inputs
        assert (feature.valid_shape, feature.aligned_shape, feature.stride) == ((1, 32, 64, 3), (1, 32, 64, 4), (8192, 256, 4, 1))
        (feature,) = featuremap.report().inputs
        assert (feature.valid_shape, feature.aligned_shape) == ((1, 8, 16, 50), (1, 8, 16, 64))
        assert (feature.stride, feature.byte_size, feature.source) == ((8192, 1024, 64, 1), 8192, "ddr")

    def test_the_stated_strides_are_how_the_simulator_lays_the_input_out(self, featuremap, features) -> None:
        """hbdk-sim leaves the padded input it feeds the BPU beside its outputs: an independent witness of the stride order."""
        described, feature = featuremap.described().inputs[0], featuremap.report().inputs[0]
        quantised = np.clip(np.rint(features[:1] / np.float32(described.scale[0])), -128, 127).astype(np.int8)
        featuremap.simulate({described.raw_name: quantised})
        (padded,) = (featuremap.folder / f"job_{featuremap._jobs}").glob("sample_0/output/input_0_*.bin")
        view = np.lib.stride_tricks.as_strided(np.fromfile(padded, np.int8), feature.valid_shape[1:], feature.stride[1:])
        np.testing.assert_array_equal(view, quantised[0])

    def test_a_cpu_tail_is_counted_and_named(self, convert, pictures) -> None:
        entry = nets.entry("softmax", [nets.nv12_input(32, 64)], "bayes-e")
        tensors = nets.training_tensor(pictures)
        converted = convert(nets.SoftmaxTail(), entry, [(tensor[None],) for tensor in tensors])
        report = converted.report()
        assert report.operators["cpu"] == 1
        assert [item.split(" ")[-1] for item in report.cpu_operators] == ["(Softmax)"]
        assert "Softmax" in converted.described().outputs[0].tail
        found = converted.run_int({"data": nets.yuv444_128(pictures)})["out"]
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)  # over the axis the exported model had
        assert cosine(fake_quant(converted.net, tensors)[0], found) > 0.999


class TestRefusals:
    def test_a_scale_of_hmcts_own(self, convert, pictures) -> None:
        entry = nets.entry("concat", [nets.nv12_input(32, 64)], "bayes-e")
        with pytest.raises(ToolchainError, match="with a scale of its own") as caught:
            convert(nets.ConcatWithoutQuant(), entry, [(nets.training_tensor(pictures)[:1],)])
        assert "Concat" in caught.value.where["operator"]
        assert caught.value.where["model"] == "concat"

    def test_several_bpu_parts(self, convert, pictures) -> None:
        entry = nets.entry("round", [nets.nv12_input(32, 64)], "bayes-e")
        with pytest.raises(ToolchainError, match="splits into several BPU parts") as caught:
            convert(nets.RoundInTheMiddle(), entry, [(nets.training_tensor(pictures)[:1],)])
        assert caught.value.where["found"] == "/Round (Round)"

    def test_what_the_compiler_refuses(self, image, hmct, tmp_path: Path) -> None:
        entry = nets.entry("two_cores", [nets.nv12_input(32, 64)], "bayes", core_num=2)
        with pytest.raises(ToolchainError, match="hb_mapper did not convert the model") as caught:
            hmct.convert(entry, entry.targets[0], image.onnx, tmp_path / "convert", lambda line: None)
        assert caught.value.where["step"] == "hbdk.hbdk-cc"
        assert "2 core" in caught.value.where["found"]

    def test_a_file_that_is_no_onnx(self, image, hmct, tmp_path: Path) -> None:
        exported = image.onnx.read_bytes()
        for content, match in (
            (None, "does not exist"),
            (b"", "is empty"),
            (b"not a protobuf at all", "cannot be read as ONNX"),
            (exported[: len(exported) // 2], "cannot be read as ONNX"),
            (exported[:2], "cannot be read as ONNX"),
        ):
            path = tmp_path / "broken.onnx"
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(ArtifactError, match=match):
                hmct.convert(image.entry, image.entry.targets[0], path, tmp_path / "convert", lambda line: None)

    @pytest.mark.parametrize("damage", ["header", "checksum", "truncated"])
    def test_a_corrupt_hbm(self, image, pictures, tmp_path: Path, damage: str) -> None:
        content = bytearray(image.conversion.products["hbm"].read_bytes())
        if damage == "truncated":
            del content[5000:]
        else:
            at = slice(4, 8) if damage == "header" else slice(384, 448)
            content[at] = bytes(value ^ 0xFF for value in content[at])
        path = tmp_path / "damaged.hbm"
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"corrupt|cannot be disassembled") as caught:
            image.simulate({"data": pictures}, hbm=path)
        assert caught.value.where["file"] == str(path)

    def test_a_tensor_of_the_wrong_type_or_shape(self, image, pictures) -> None:
        integers = nets.yuv444_128(pictures)
        for wrong in (integers.astype(np.float32), integers.transpose(0, 3, 1, 2), integers.view(np.uint8)):
            with pytest.raises(ArtifactError, match="does not fit the int model's input"):
                image.run_int({"data": wrong})

    def test_an_input_file_of_the_wrong_size(self, image, pictures) -> None:
        with pytest.raises(ArtifactError, match="wrong size") as caught:
            image.simulate({"data": pictures[:, :-1]})
        assert caught.value.where["expected"].startswith("3072 bytes")

    def test_int_and_hbm_of_two_conversions(self, image, featuremap, hmct, tmp_path: Path) -> None:
        with pytest.raises(ToolchainError, match="the int model does not have"):
            hmct.compile_report(
                image.conversion.products["int"], featuremap.conversion.products["hbm"], None, tmp_path / "report", lambda line: None
            )


class TestTools:
    """What a tool says is judged by its files and console, never by its exit code alone."""

    def convert(self, hmct, image, tmp_path: Path) -> None:
        hmct.convert(image.entry, image.entry.targets[0], image.onnx, tmp_path / "convert", lambda line: None)

    def test_a_killed_converter_is_broken(self, shadowed, image, tmp_path: Path) -> None:
        with pytest.raises(BrokenError) as caught:
            self.convert(shadowed("hb_mapper", "kill -9 $$"), image, tmp_path)
        assert caught.value.kind == "killed"

    def test_a_killed_compiler_inside_the_converter_is_broken(self, shadowed, image, tmp_path: Path) -> None:
        with pytest.raises(BrokenError) as caught:
            self.convert(shadowed("hbdk-cc", "kill -9 $$"), image, tmp_path)
        assert caught.value.kind == "killed"

    def test_exit_code_0_without_files_is_no_success(self, shadowed, image, tmp_path: Path) -> None:
        with pytest.raises(ToolchainError, match="did not convert"):
            self.convert(shadowed("hb_mapper", "echo 'Convert to runtime bin file successfully!'"), image, tmp_path)

    def test_a_crash_is_the_models(self, shadowed, image, tmp_path: Path) -> None:
        with pytest.raises(ToolchainError, match="crashed with SIGFPE"):
            self.convert(shadowed("hb_mapper", "kill -FPE $$"), image, tmp_path)

    def test_an_aborted_converter_is_broken(self, shadowed, image, tmp_path: Path) -> None:
        with pytest.raises(BrokenError, match="hb_mapper") as caught:
            self.convert(shadowed("hb_mapper", "kill -ABRT $$"), image, tmp_path)
        assert caught.value.kind == "tool_crashed"

    @pytest.mark.parametrize(("script", "kind"), [("kill -SEGV $$", "tool_crashed"), ("echo std::bad_alloc >&2; exit 1", "memory")])
    def test_a_disassembler_that_dies_on_a_sound_hbm_is_broken(self, shadowed, image, pictures, script: str, kind: str) -> None:
        with pytest.raises(BrokenError, match="hbdk-disas") as caught:
            image.simulate({"data": pictures}, hmct=shadowed("hbdk-disas", script))
        assert caught.value.kind == kind

    def test_a_full_disk_is_broken(self, shadowed, image, tmp_path: Path) -> None:
        with pytest.raises(BrokenError) as caught:
            self.convert(shadowed("hb_mapper", "echo 'OSError: [Errno 28] No space left on device'; exit 255"), image, tmp_path)
        assert caught.value.kind == "disk_full"

    def test_a_simulator_without_output_is_a_missing_dump(self, shadowed, image, pictures) -> None:
        with pytest.raises(BrokenError) as caught:
            image.simulate({"data": pictures}, hmct=shadowed("hbdk-sim", "exit 0"))
        assert caught.value.kind == "dump_missing"

    def test_a_simulator_that_writes_too_little(self, shadowed, image, pictures) -> None:
        script = (
            'while [ "$1" != -o ]; do shift; done; printf \'#valid_dim=1x10x1x1\\n1 2 3\\n\' > "$2/hbdk_output0_feature_x_elem_int.txt"'
        )
        with pytest.raises(BrokenError) as caught:
            image.simulate({"data": pictures}, hmct=shadowed("hbdk-sim", script))
        assert caught.value.kind == "dump_truncated"

    def test_a_checker_that_refuses_is_reported(self, shadowed, image, tmp_path: Path) -> None:
        products = image.conversion.products
        toolchain = shadowed("hbdk-model-check", "echo 'layer /conv2/Conv: kernel too large'; exit 1")
        report = toolchain.compile_report(products["int"], products["hbm"], products["hbir"], tmp_path / "report", lambda line: None)
        assert report.problems == ("layer /conv2/Conv: kernel too large",)

    @pytest.mark.parametrize("script", ["echo checking; kill -SEGV $$", "exit 1"])
    def test_a_checker_that_dies_is_broken(self, shadowed, image, tmp_path: Path, script: str) -> None:
        products = image.conversion.products
        toolchain = shadowed("hbdk-model-check", script)
        with pytest.raises(BrokenError, match="hbdk-model-check") as caught:
            toolchain.compile_report(products["int"], products["hbm"], products["hbir"], tmp_path / "report", lambda line: None)
        assert caught.value.kind == "tool_crashed"

    def test_without_an_hbir_the_operators_are_an_open_question(self, hmct, image, tmp_path: Path) -> None:
        products = image.conversion.products
        with pytest.raises(BrokenError, match="left no hbir") as caught:
            hmct.compile_report(products["int"], products["hbm"], None, tmp_path / "report", lambda line: None)
        assert caught.value.kind == "dump_missing"

    def test_an_environment_that_does_not_import_is_unavailable(self, shadowed) -> None:
        assert "does not work" in shadowed("hbdk-cc", "exit 1").unavailable()
