"""The protocol of Headwater: bytes in, messages out. No I/O, no clock.

    limits          every limit, with its unit and reason
    numbers         types for commit numbers, positions and versions
    errors          HeadwaterError and its subclasses, by error code
    fields          the types of arguments, and their validation
    operations      every operation, its arguments and its answer
    keys            encode_key, decode_key, prefix_range: tuples as bytes that sort
    frames          FrameSplitter, encode_frame: frames in a stream of bytes
    messages        encode, decode, encode_array: msgpack within limits
    answers         frames of the most frequent answers, built in one step
    states          State: the state of a connection, and the requests allowed in it
    connection      ServerConnection, ClientConnection: the two ends of a connection
    compiled        whether the compiled modules or their sources run

Only these modules are public. docs/protocol.md specifies the protocol for authors of clients in
other languages; tests/vectors/ has test vectors.
"""

from headwater_protocol import compiled

compiled.choose()
