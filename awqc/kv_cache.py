"""Names of a decoder's cache among a model's inputs and outputs, as the ecosystem writes them.

``past_key_values.N.key`` and ``.value`` go in, ``present.N.key`` and ``.value`` come out, and
come back in at the next call. What a layer keeps besides goes in as ``past_conv.N``, or under
another word, and comes out as ``present_conv.N``. Neither torch nor onnxruntime is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

PAST, PRESENT = "past_key_values.", "present."
KEY, VALUE = "key", "value"
CONV, RECURRENT, INDEXER = "conv", "recurrent", "indexer"
"""Words for what a convolution has still to see, for the state of a recurrence, and for keys of
what chooses tokens."""
OTHER_PAST, OTHER_PRESENT = "past_", "present_"
"""How names of other states begin; a word for what is kept follows."""
LOGITS_START = "logits_start"
"""Input of a fused decoder that need not be given: the first token of which logits are made."""
ROW_BY_ROW = "awqc.row_by_row"
"""Metadata of a model: ``1`` where several tokens behind a past are read of one row at a time."""
SHARED_CACHE = "awqc.shared_cache"
"""Metadata of a model: ``1`` where a past and the present that comes of it may be one buffer."""

CACHE_FLAG = "use_cache_branch"
"""Input of a decoder that makes what it needs of its encoder at the first call: whether there is a
past."""
TOKENS = "input_ids"
POSITIONS, MASK = "position_ids", "attention_mask"
"""Inputs of a decoder: where each token stands, and which tokens and places are no padding."""
PLACES = "awqc.places"
"""Metadata of a model: ``1`` where it has no input for positions, and counts them from the first
place of the cache."""

PROMPT_ROWS = "awqc.prompt_rows"
"""Metadata of an encoder whose decoder continues a prompt: names of the decoder's inputs that have
a row for each of its tokens, as JSON; each new token has the last of these rows."""

TOKEN_ROWS, IMAGE_ROWS = "inputs_embeds", "image_features"
"""Rows of tokens, which a decoder takes in place of tokens, and those that stand for images."""
LATER_ROWS, LATER_FEATURES = "later_rows", "later_features"
"""Rows that a decoder adds behind layers, zeros for tokens of text, and those of images."""
TEXT_ROWS = "text_rows"
"""Rows of tokens that are made, where some have another one in a prompt with images."""
IMAGE_TOKEN = "awqc.image_token"
"""Metadata of a model that makes rows of images: the token in whose places they are put."""
TOKEN_KINDS = "awqc.token_kinds"
"""Metadata beside it: what a decoder takes besides, as JSON: by name the number that it is given
for a token of images, and for another one."""
FIXED_IMAGES = "awqc.fixed_images"
"""Metadata beside it, of a model that takes images of one size: which, as JSON, see
`awqc.artifacts.fixed_images`."""
IMAGE_POSITIONS = "awqc.image_positions"
"""Metadata beside it, of a decoder whose positions follow the layout of images: how, as JSON, see
`awqc.artifacts.image_positions`."""
Kinds = dict[str, tuple[int, int]]


def past_name(layer: int | str, part: str) -> str:
    """Input that takes ``part`` of ``layer``: a key or value, or another word for what is kept.

    ``%d`` is a layer for runners.

    >>> past_name(3, "key"), past_name(0, "encoder.value"), past_name(2, "conv")
    ('past_key_values.3.key', 'past_key_values.0.encoder.value', 'past_conv.2')
    """
    known = part.rpartition(".")[2] in (KEY, VALUE)
    return f"{PAST}{layer}.{part}" if known else f"{OTHER_PAST}{part}.{layer}"


def named_state(past: str) -> tuple[int, str]:
    """The layer and the part that `past_name` made ``past`` of.

    >>> named_state("past_key_values.3.key"), named_state("past_conv.2")
    ((3, 'key'), (2, 'conv'))
    """
    head, _, rest = past.partition(".")
    layer, _, part = rest.partition(".")
    return int(layer), part or head.removeprefix(OTHER_PAST)


def present_name(layer: int | str, part: str) -> str:
    """Output that gives what `past_name` takes at the next call."""
    return present_of(past_name(layer, part))


def present_of(past: str) -> str:
    """The output that comes back through the input ``past``."""
    if past.startswith(PAST):
        return PRESENT + past.removeprefix(PAST)
    return OTHER_PRESENT + past.removeprefix(OTHER_PAST)


def past_of(present: str) -> str:
    """The input that takes what the output ``present`` gave."""
    if present.startswith(PRESENT):
        return PAST + present.removeprefix(PRESENT)
    return OTHER_PAST + present.removeprefix(OTHER_PRESENT)


def state_pairs(inputs: Iterable[str], outputs: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pairs (input, output) of a cache among the names of a model's inputs and outputs.

    >>> state_pairs(["input_ids", "past_key_values.0.key"], ["logits", "present.0.key"])
    (('past_key_values.0.key', 'present.0.key'),)
    """
    known = set(outputs)
    pairs = [(name, present_of(name)) for name in inputs if name.startswith(OTHER_PAST)]
    return tuple(pair for pair in pairs if pair[1] in known)


def empty_shape(shape: Sequence[int | str], batch: int) -> tuple[int, ...]:
    """The shape of a state before the first token, of which an input says ``shape``.

    What grows with the tokens, the other axes that have names, is empty; what does not holds zeros.

    >>> empty_shape(("batch", 2, "past", 8), 3), empty_shape(("batch", 16, 3), 3)
    ((3, 2, 0, 8), (3, 16, 3))
    """
    return (batch, *(size if isinstance(size, int) else 0 for size in shape[1:]))


ENCODER_STATES = "encoder_hidden_states"


def encoder_side(name: str) -> str:
    """What a decoder calls an input or output of its encoder.

    >>> encoder_side("last_hidden_state"), encoder_side("attention_mask")
    ('encoder_hidden_states', 'encoder_attention_mask')
    """
    if name == "last_hidden_state":
        return ENCODER_STATES
    return name if name.startswith("encoder_") else f"encoder_{name}"
