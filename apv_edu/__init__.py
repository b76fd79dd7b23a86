"""The companion package of a book on world models: learn from videos first, act later.

The rooms, in the order of the chapters: ``envs`` and ``data`` (worlds and videos), ``nets`` and
``video_model`` (the action-free latent video model), ``pretrain`` (training it on videos).
"""

__version__ = "0.1.0"
