"""Other ways to run a compiled model than onnxruntime."""
