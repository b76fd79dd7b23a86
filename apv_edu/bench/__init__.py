"""Measured speed: ``python -m apv_edu.bench pretrain|finetune|policy|memory|...|all``."""
