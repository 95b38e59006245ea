"""Tiny random Hugging Face models and tokenizers for tests, written as folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from awqc.huggingface.capture import load_folder
from awqc.program import Program

VOCABULARY = 128
_DECODER = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_GROUPED = {**_DECODER, "num_key_value_heads": 2}
_GPT = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": {**_GROUPED, "num_hidden_layers": 2},  # grouped queries, gated MLP, rotary
    "gpt2": _GPT,  # Conv1D, fused qkv, learned positions, tied head
    "gpt_neox": _DECODER,  # parallel blocks, fused qkv
    "gpt_bigcode": {**_GPT, "multi_query": True},  # one key/value head
    "falcon": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
    "bloom": {"hidden_size": 32, "n_layer": 1, "n_head": 4},  # alibi, no position_ids
    "opt": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 64,
    },
    "phi3": {**_GROUPED, "pad_token_id": 0},  # fused qkv and fused gate and up
    # sandwich norms, (1 + w), every other layer with a window
    "gemma2": {**_GROUPED, "head_dim": 8, "sliding_window": 4, "num_hidden_layers": 2},
    "gemma3_text": {**_GROUPED, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4},
    "mistral": {**_GROUPED, "sliding_window": 4, "head_dim": 8},
    "olmo2": _GROUPED,  # norms after, query and key norms
    "cohere": {**_GROUPED, "num_key_value_heads": 4},  # parallel blocks, LayerNorm, tied
    "gptj": {**_GPT, "rotary_dim": 4},
}
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {
        **_GROUPED, "intermediate_size": 32, "num_hidden_layers": 2, "num_local_experts": 4,
        "num_experts_per_tok": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    },
}  # fmt: skip
"""Decoders in which each token is sent to some of many products."""
_STATEFUL = {
    **_GROUPED, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2
}  # fmt: skip
_LINEAR = {"layer_types": ["linear_attention", "full_attention"], "head_dim": 16}
_DELTA = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
}  # fmt: skip
STATEFUL: dict[str, dict[str, Any]] = {
    "lfm2": {  # short convolutions
        **_STATEFUL, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False,
    },
    "qwen3_5_text": {**_STATEFUL, **_LINEAR, **_DELTA},  # a gated delta rule
    "mamba2": {  # a state space by heads, and no attention
        **_STATEFUL, "num_hidden_layers": 1, "state_size": 8, "num_heads": 4, "head_dim": 16,
        "n_groups": 2, "chunk_size": 4, "expand": 2,
    },
    "mamba": {**_STATEFUL, "num_hidden_layers": 1, "state_size": 4},  # by channels
    "falcon_h1": {  # a state space beside attention, in one layer
        **_STATEFUL, "num_hidden_layers": 1, "mamba_d_ssm": 32, "mamba_n_heads": 4,
        "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 4,
    },
    "deepseek_v32": {  # keys of an indexer, which chooses tokens
        **_STATEFUL, "num_hidden_layers": 1, "num_key_value_heads": 4, "index_topk": 32,
        "index_n_heads": 2, "index_head_dim": 8, "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
        "first_k_dense_replace": 1, "n_routed_experts": 4, "moe_intermediate_size": 16,
        "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
    },
}  # fmt: skip
"""Decoders that carry more than keys and values."""
_ENCODER = {**_DECODER, "type_vocab_size": 2}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", _ENCODER),
    "roberta": ("RobertaForSequenceClassification", {**_ENCODER, "type_vocab_size": 1}),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64},
    ),
    "electra": ("ElectraForTokenClassification", {**_ENCODER, "embedding_size": 16}),
    "albert": ("AlbertModel", {**_ENCODER, "embedding_size": 16}),
    "modernbert": (
        "ModernBertForMaskedLM",
        {
            **_DECODER,
            "num_hidden_layers": 2,  # attention to all, and to the neighbours
            "local_attention": 4,
            "pad_token_id": 0,
            "cls_token_id": 1,
            "sep_token_id": 2,
        },
    ),
}


def save_decoder(kind: str, folder: Path, **changes: Any) -> Any:
    """Write a random decoder of the family ``kind``; returns the model."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    options = {"vocab_size": VOCABULARY, **{**DECODERS, **EXPERTS, **STATEFUL}[kind], **changes}
    config = AutoConfig.for_model(kind, **options)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model


@dataclass(frozen=True)
class Opened:
    """A decoder in its ``folder``, and what is captured of it, of which each test gets a copy."""

    folder: Path
    model: Any
    captured: Program

    @classmethod
    def saved(cls, kind: str, folder: Path, **changes: Any) -> Opened:
        """A random decoder of the family ``kind``, written and captured."""
        model = save_decoder(kind, folder, **changes)
        return cls(folder, model, load_folder(folder))

    @property
    def program(self) -> Program:
        """A copy of the program."""
        return self.captured.clone()


def save_encoder(kind: str, folder: Path) -> Any:
    """Write a random encoder of the family ``kind``; returns the model."""
    import transformers

    torch.manual_seed(0)
    name, options = ENCODERS[kind]
    config = transformers.AutoConfig.for_model(kind, vocab_size=VOCABULARY, **options)
    model = getattr(transformers, name)(config).eval()
    model.save_pretrained(folder)
    return model


def save_tokenizer(folder: Path, *, words: int = VOCABULARY, bos: bool = False) -> None:
    """Write a tokenizer of ``words`` words: ``<pad> <s> </s> <unk>``, then ``w4 w5 …``."""
    vocabulary = {word: index for index, word in enumerate(("<pad>", "<s>", "</s>", "<unk>"))}
    vocabulary |= {f"w{index}": index for index in range(4, words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "chat_template": "{% for m in messages %}<s> {{ m['content'] }} </s> {% endfor %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
