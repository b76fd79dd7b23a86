"""Videos: recording them from worlds, reading and packing those that exist, sampling sequences."""
