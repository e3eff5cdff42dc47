"""`torch.onnx.symbolic_opset9` of the stand-in: imported by the vendor's exporter symbolics, used by an export only."""
