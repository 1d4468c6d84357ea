"""The special tokens of every tokenizer, by number."""

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>", "<mask>")
