"""Checkpoints: sharded, written in the background, readable at any world size and strategy.

    FOLDER/step-00000100.g1.3/shard-00000.safetensors   one per rank
                              manifest.json             what is where, sizes and checksums
                              COMMITTED                 created last; without it there is nothing

A folder's name holds the version and the generation that wrote it, so two generations never write
the same file. Nothing is pickled.
"""
