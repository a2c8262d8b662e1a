"""Who may publish, play, and ask the API.

::

    RTMP publish, play --.                                    .-- address list
    HTTP-FLV ------------|                 first rule that    |-- stream key       each: allowed, refused,
    HLS playlist, segment|--> Gate --> Policy --names it ---->|-- signed URL              or no opinion
    API -----------------'    (log, metrics)   checks in turn |-- token (JWT)
                                                              |-- callback to a back end
                                                              '-- hook of the embedding program

``asking`` is the question and the answer; ``rules`` reads what operators write; ``policy`` decides; each check has a
module of its own, and knows nothing of the protocol that the question came by.  ``gate`` connects all that to the
servers.  A check that has to ask somebody else may be awaited: only the client in question waits.
"""
