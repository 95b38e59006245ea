"""What `python -m tests.fuzz` has found: each must stay mended."""

from __future__ import annotations

from tests.fuzz.files import CLASSIFY, EVAL, GENERATE, QUICK, Case
from tests.fuzz.graphs import Graph

GRAPHS: tuple[Graph, ...] = (
    Graph("images", ("place", "pool"), 944899),  # a pool whose size follows from a free axis
    Graph("tokens", ("attention", "residual", "activation"), 881019, True),  # no channel is scaled
    Graph("tokens", ("conv", "residual", "activation"), 662607, True),
    Graph("tokens", ("image", "activation"), 86834),
    Graph("tokens", ("activation", "attention", "attention", "norm"), 94380, True),
    Graph("images", ("norm", "place", "pool", "resize", "mix", "norm"), 342165),  # a gate near 0
    Graph("images", ("transposed", "place", "resize", "resize", "place"), 539045),  # 47 / 94
)

FILES: tuple[Case, ...] = (
    Case("out/recipe.json", f"compile model.pt --recipe out {QUICK}", 521915030),
    Case("lm/generation_config.json", GENERATE, 353303931),  # tokens that are no numbers
    Case("vit/config.json", "explain vit", 834327244),  # architectures that are no names
    Case("vit/config.json", "explain vit", 187002932),
    Case("llama/config.json", "explain llama", 299497449),  # a type that is no name
    Case("vit/config.json", "explain vit", 211038544),
    Case("vit-out/config.json", CLASSIFY, 881336216),
    Case("stats", f"compile model.pt --stats stats {QUICK}", 954013687),  # a matrix that is a row
    Case("out/model.pt2", "explain out/model.pt2", 480381879),  # a name that is no UTF-8
    Case("data.npz", f"compile model.pt --calib data.npz {QUICK}", 76337380),  # a header cut short
    Case("out/scales.safetensors", f"compile model.pt --recipe out {QUICK}", 714706739),
    Case("lm/tokenizer.json", EVAL, 106605792),  # a tokenizer without a token for the unknown
)
