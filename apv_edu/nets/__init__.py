"""The parts of every model in the book: distributions, layers, vision, and the recurrent core."""

from apv_edu.nets.rssm import RSSM, Rollout, State
from apv_edu.nets.vision import Decoder, Encoder

__all__ = ["RSSM", "Decoder", "Encoder", "Rollout", "State"]
