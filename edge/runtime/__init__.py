"""The program on the device: load it, and run it on onnxruntime, LiteRT, numpy alone or torch."""
