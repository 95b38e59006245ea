"""A compiled folder used for what its model is for, in onnxruntime."""
