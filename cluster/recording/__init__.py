"""Recording: streams published here are written to files.

::

    hub --started--> Recorder --per stream: Recording (a keeper) --per file: FlvFile --> PartFile (in the disk's thread)
                        |                                                                 |
                        '-- completes files: seal, convert (MP4, another process), name <-'
                        '-- tidies up: what lost nodes left, what is too old

Nothing here can hold a stream up: what the disk does not take in time is left out, and counted.
"""
