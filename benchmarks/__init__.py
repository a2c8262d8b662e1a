"""Side-by-side measurements of this server and its peers: same load, same machine, same run.

    python -m benchmarks fanout | ingest | latency | soak | smoke

Server CPU and memory are read from /proc; every client is this package's own, so that its cost is known and is
the same for every server.  The RTMP spoken here is written apart from the package under test on purpose: a mistake
made there cannot hide here.
"""
