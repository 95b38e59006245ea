"""Parts of an ONNX graph that one kernel of onnxruntime computes, found by what they compute."""
