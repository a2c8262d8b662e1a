"""HTTP callbacks to a back end, in the words that it knows already: those of SRS, nginx-rtmp or MediaMTX.

::

    Gate, check "callback" --.                .--> srs, nginx_rtmp, mediamtx: a form and back ---.
    Hooks.on_connect --------|--> Callbacks --|                                                  |--> posting
    Hooks.on_..._done -------|                |--> HlsSessions: one question for each player     |
    HLS segments made -------|                '--> Notifications: again, when it fails ----------'
    Files recorded ----------'

A question (connect, publish, play) has a client that waits for its answer: it is asked once (again only where the
connection breaks), for at most a deadline, and only so many are asked at once.  A notification has nobody who waits: it
is tried again, from a bounded queue.  What a client sends is data in the body of a request, and never decides where
that goes.
"""
