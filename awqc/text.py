"""The token sequences that a compile makes of a text, for scripts that want to see them.

from transformers import AutoTokenizer
from awqc.text import TextModel, packed_sequences

tokenizer = AutoTokenizer.from_pretrained("./SmolLM2")
text = TextModel(tokenizer, context=8192, vocabulary=49152, cached=True)
packed_sequences(text, Path("text.txt"), 64, 512)    # int64 (64, 512)
"""

from awqc.data.text_batches import TextModel, packed_sequences

__all__ = ["TextModel", "packed_sequences"]
