"""The protocol of Headwater: bytes in, messages out. No I/O, no clock.

    limits          every bound, with its unit and reason
    numbers         commit numbers, positions, versions, as types
    errors          HeadwaterError and its classes, by the code that travels
    fields          what an argument may be, and the check of it
    operations      the vocabulary: every operation, its arguments, its answer
    keys            encode_key, decode_key, prefix_range: tuples as bytes that sort
    frames          FrameSplitter, encode_frame: how a stream is cut into bodies
    messages        encode, decode, encode_array: msgpack within bounds
    answers         answers whose form never varies, as whole frames
    states          State: how far a conversation is, and what may be said then
    connection      ServerConnection, ClientConnection: the conversation, for both ends
    compiled        whether the compiled modules run, where there are any

All of these modules are public, and nothing else is. docs/protocol.md says the same for those who
write a client in another language; tests/vectors/ has the bytes.
"""

from headwater_protocol import compiled

compiled.choose()
