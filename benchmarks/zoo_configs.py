"""Shrunken configurations of the architectures that transformers knows.

The harness may know the names of configuration fields; the compiler does not.
"""

from __future__ import annotations

from typing import Any

LAYERS = 2
WIDTH = 64
SIZES: dict[str, int] = {
    **dict.fromkeys(
        (
            "hidden_size",
            "d_model",
            "n_embd",
            "embed_dim",
            "embedding_size",
            "dim",
            "width",
            "hidden_dim",
            "decoder_hidden_size",
            "encoder_hidden_size",
            "emb_dim",
            "model_dim",
            "text_embed_dim",
            "projection_dim",
            "decoder_hidden_dim",
            "d_embed",
            "block_dim",
        ),
        WIDTH,
    ),
    **dict.fromkeys(
        (
            "intermediate_size",
            "ffn_dim",
            "d_ff",
            "n_inner",
            "encoder_ffn_dim",
            "decoder_ffn_dim",
            "ffn_hidden_size",
            "decoder_intermediate_size",
            "d_inner",
            "dff",
            "shared_intermediate_size",
            "prefix_projection_dim",
        ),
        2 * WIDTH,
    ),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"),
        WIDTH,
    ),
    **dict.fromkeys(
        (
            "num_hidden_layers",
            "n_layer",
            "n_layers",
            "num_layers",
            "encoder_layers",
            "decoder_layers",
            "num_encoder_layers",
            "num_decoder_layers",
            "decoder_num_layers",
            "depth",
            "num_blocks",
            "num_hidden_groups",
        ),
        LAYERS,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "encoder_attention_heads",
            "decoder_attention_heads",
            "decoder_num_attention_heads",
            "num_encoder_heads",
        ),
        4,
    ),
    **dict.fromkeys(
        (
            "head_dim",
            "d_kv",
            "v_head_dim",
            "qk_rope_head_dim",
            "qk_nope_head_dim",
            "qk_head_dim",
            "attention_head_size",
            "attention_head_dim",
        ),
        16,
    ),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "dt_rank", "time_step_rank"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k", "top_k"), 2
    ),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(
        (
            "vocab_size",
            "decoder_vocab_size",
            "src_vocab_size",
            "tgt_vocab_size",
            "vocab_size_per_layer_input",
        ),
        300,
    ),
    **dict.fromkeys(
        (
            "max_position_embeddings",
            "n_positions",
            "max_seq_len",
            "max_sequence_length",
            "max_source_positions",
            "max_target_positions",
            "n_ctx",
            "seq_length",
        ),
        128,
    ),
    "image_size": 32,
    "window_size": 4,
    "rotary_dim": 16,
    "num_mel_bins": 16,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 0,
    "state_size": 8,
    "ssm_state_size": 8,
    "mamba_d_state": 8,
    "mamba_d_head": 32,
    "mamba_n_heads": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "relative_attention_num_buckets": 8,
    "num_queries": 6,
    "decoder_start_token_id": 1,
}
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")
HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
STAGES = ("hidden_sizes", "embed_dims", "dims", "channels", "encoder_hidden_sizes")


GRID = ("image_size", "patch_size", "window_size")
ATTEMPTS: tuple[tuple[bool, tuple[str, ...]], ...] = (
    (True, ()),
    (True, ("window_size",)),
    (True, GRID),
    (True, STAGES),
    (True, ("hidden_size", "embedding_size", "hidden_dim", "d_model")),
    (True, (*GRID, *STAGES, "hidden_size", "embedding_size", "embed_dim", "num_mel_bins")),
    (False, ()),
)
"""What to try: whether to shrink a backbone of any class too, and the fields to leave alone.

Sizes that must agree with others, which only the model knows, may not be shrunk alone.
"""


def shrunken(cls: type[Any], deep: bool = True, alone: tuple[str, ...] = ()) -> Any:
    """A configuration of class ``cls``, made small; see `ATTEMPTS`."""
    return cls(**_fields(cls, deep, alone))


def _fields(cls: type[Any], deep: bool, alone: tuple[str, ...]) -> dict[str, Any]:
    """The fields to give to ``cls``."""
    fields = _all_fields(cls, deep, alone)
    return {name: value for name, value in fields.items() if name not in alone}


def _all_fields(cls: type[Any], deep: bool, alone: tuple[str, ...]) -> dict[str, Any]:
    default = cls()
    given = default.to_dict()
    fields: dict[str, Any] = {
        name: value for name, value in SIZES.items() if isinstance(given.get(name), int)
    }
    if isinstance(given.get("patch_size"), int):
        fields["patch_size"] = 8 if given["patch_size"] > 8 else given["patch_size"]
    for name in HEADS:
        if isinstance(given.get(name), int):
            heads = given.get("num_attention_heads", given.get("n_head", 4))
            fields[name] = {True: 4, False: 2}[given[name] == heads]
            fields[name] = 1 if given[name] == 1 else fields[name]
    for name in STAGES:
        if isinstance(given.get(name), list | tuple):
            fields[name] = [16 * 2 ** min(i, 2) for i in range(len(given[name]))]
    for name in ("depths", "num_heads", "num_attention_heads"):
        if isinstance(given.get(name), list | tuple):
            fields[name] = [1 if name == "depths" else 2] * len(given[name])
    for index, name in enumerate(TOKENS):
        if isinstance(given.get(name), int) and given[name] >= 300:
            fields[name] = index
    for name, value in {"pad_token_id": 0, "vocab_size": 300, "num_key_value_heads": 2}.items():
        if name in given and given[name] is None:
            fields[name] = value
    if "use_cache" in given:
        fields["use_cache"] = False
    kinds = list(dict.fromkeys(given.get("layer_types") or ()))
    if len(kinds) > 1:
        fields["layer_types"] = kinds  # a layer of each
        fields["num_hidden_layers"] = len(kinds)
    for name, kind in getattr(cls, "sub_configs", {}).items():
        inner = getattr(default, name, None)
        if inner is not None and (deep or kind.__name__ != "AutoConfig"):
            fields[name] = {**_fields(type(inner), deep, alone), "model_type": inner.model_type}
    return fields
