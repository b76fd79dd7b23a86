"""One seed, many independent streams of randomness."""

import numpy as np


def stream(seed: int, purpose: int, *numbers: int) -> int:
    """A seed of 64 bits for one purpose (and step, episode, ...), independent of all others."""
    return int(np.random.SeedSequence((seed, purpose, *numbers)).generate_state(1, np.uint64)[0])
