"""A decoder of single words that tries every bit: the oracle of the tests of codes and of protected tensors."""

import numpy as np


def decode_word(code, data, checks):
    """One word as it is read, decoded without columns or tables: its data, and ok, corrected or detected."""

    def sound(word):
        return np.array_equal(code.encode(word[None, : code.data_bits])[0], word[code.data_bits :])

    read = np.concatenate([data, checks])
    if sound(read):
        return data, "ok"
    candidates = [read ^ one for one in np.eye(read.size, dtype=np.uint8) if sound(read ^ one)]
    if len(candidates) == 1:
        return candidates[0][: code.data_bits], "corrected"
    return data, "detected"
