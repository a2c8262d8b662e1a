"""Many processes, one machine.

::

    clients --accept--> supervisor --descriptor of the connection--> worker 0 .. N-1      (least loaded)
                          | ^                                         | ^
                          | '------- claims, pongs, reports ----------' |
                          '--------- grants, directory, pings ----------'

    worker that holds a stream --segments of its log (descriptors), "the log now ends here"--> worker with viewers of it

The *supervisor* is the control plane: it listens, places connections, decides who publishes what, answers operators
and replaces workers.  *Workers* are the data plane: sockets, streams, logs.  A worker *holds* the streams whose
publishers it has; others *relay* them from the same memory.  No media byte passes between processes.

All channels are pairs of connected, nameless Unix sockets made by the supervisor and inherited or passed on: there is
nothing in the file system that somebody else could connect to.
"""
