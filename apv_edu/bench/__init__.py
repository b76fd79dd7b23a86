"""Measured speed: ``python -m apv_edu.bench pretrain`` or ``render``."""
