"""TLS: what this node shows to its clients, and what it trusts and shows when it connects to others.

::

    identity.py   certificate, key and client authorities
    reading.py    the same from their files, checked
    server.py     contexts to listen with; new handshakes use the newest identity
    keeper.py     watches the files, tells what became of them
    client.py     the context of connections to other servers

The process that listens reads the files and hands what it read to its workers: all show the same certificate, and a
worker that is replaced while the files are broken shows the one that was good.
"""
