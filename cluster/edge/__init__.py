"""Edge: streams that nobody publishes on this node are fetched from one that has them, while somebody watches.

::

    upstreams.py   where a stream may be fetched, and in which order to try
    attempt.py     one connection to an upstream, until its first frame and after
    rtmp.py        the same, by RTMP
    flv.py         the same, by HTTP-FLV
    pull.py        one stream: find it, keep it, change upstreams under its viewers, stop when nobody watches
    pulls.py       all of them: one per stream, whatever the number of viewers (``pyrtmp.hub.Source``)
"""
