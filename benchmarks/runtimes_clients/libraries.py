"""Uses compiled folders by the ecosystem's own libraries: python libraries.py JOB RESULT."""

from __future__ import annotations

import json
import sys
import traceback
import wave
from importlib.metadata import version
from pathlib import Path

import numpy as np


def sentence_transformers(job):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        job["folder"], backend="onnx", model_kwargs={"file_name": "model.onnx"}
    )
    return model.encode(job["inputs"]).tolist()


def fastembed(job):
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="own/model",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="own/model"),
        dim=job["width"],
        model_file="model.onnx",
    )
    model = TextEmbedding("own/model", specific_model_path=job["folder"])
    return [each.tolist() for each in model.embed(job["inputs"])]


def feature_extraction(job):
    import torch
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    model = ORTModelForFeatureExtraction.from_pretrained(job["folder"])
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    found = []
    for text in job["inputs"]:
        inputs = tokenizer(text, return_tensors="pt")
        states = model(**inputs).last_hidden_state[0]
        found.append(torch.nn.functional.normalize(states.mean(dim=0), dim=0).tolist())
    return found


def image_classification(job):
    from optimum.onnxruntime import ORTModelForImageClassification
    from PIL import Image
    from transformers import AutoImageProcessor

    model = ORTModelForImageClassification.from_pretrained(job["folder"])
    processor = AutoImageProcessor.from_pretrained(job["folder"])
    found = []
    for file in job["inputs"]:
        inputs = processor(images=Image.open(file).convert("RGB"), return_tensors="pt")
        logits = model(**inputs).logits[0].softmax(dim=-1)
        found.append([float(logits.max()), model.config.id2label[int(logits.argmax())]])
    return found


def seq2seq(job):
    from optimum.onnxruntime import ORTModelForSeq2SeqLM
    from transformers import AutoTokenizer

    model = ORTModelForSeq2SeqLM.from_pretrained(job["folder"])
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    found = []
    for text in job["inputs"]:
        ids = model.generate(
            **tokenizer(text, return_tensors="pt"), max_new_tokens=job["tokens"], num_beams=1
        )
        found.append(tokenizer.decode(ids[0], skip_special_tokens=True).strip())
    return found


def speech(job):
    from optimum.onnxruntime import ORTModelForSpeechSeq2Seq
    from transformers import AutoFeatureExtractor, AutoTokenizer

    model = ORTModelForSpeechSeq2Seq.from_pretrained(job["folder"])
    extractor = AutoFeatureExtractor.from_pretrained(job["folder"])
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    found = []
    for file in job["inputs"]:
        with wave.open(file) as opened:
            raw = opened.readframes(opened.getnframes())
        samples = np.frombuffer(raw, np.int16).astype(np.float32) / 2**15
        inputs = extractor(samples, sampling_rate=16000, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=job["tokens"], num_beams=1)
        found.append(tokenizer.decode(ids[0], skip_special_tokens=True).strip())
    return found


def genai_speech(job):
    import onnxruntime_genai

    model = onnxruntime_genai.Model(job["folder"])
    processor = model.create_multimodal_processor()
    found = []
    for file in job["inputs"]:
        inputs = processor([job["prompt"]], audios=onnxruntime_genai.Audios.open(file))
        settings = onnxruntime_genai.GeneratorParams(model)
        settings.set_search_options(do_sample=False, num_beams=1, batch_size=1)
        generator = onnxruntime_genai.Generator(model, settings)
        generator.set_inputs(inputs)
        while not generator.is_done():
            generator.generate_next_token()
        found.append(processor.decode(generator.get_sequence(0)).strip())
    return found


def main():
    job = json.loads(Path(sys.argv[1]).read_text())
    result = {"versions": {name: version(name) for name in job["packages"]}}
    try:
        result["outputs"] = globals()[job["client"]](job)
    except Exception as error:  # noqa: BLE001 - whatever a library raises is the result
        traceback.print_exc()
        result["error"] = f"{type(error).__name__}: {error}"
    Path(sys.argv[2]).write_text(json.dumps(result))


main()
