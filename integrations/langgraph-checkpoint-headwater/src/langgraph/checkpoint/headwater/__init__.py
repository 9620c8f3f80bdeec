"""LangGraph's checkpoints on Headwater.

    with HeadwaterSaver.from_conn_string("headwater://localhost:4323") as saver:
        graph = builder.compile(checkpointer=saver)

    async with AsyncHeadwaterSaver.from_conn_string("headwater://localhost:4323") as saver:
        graph = builder.compile(checkpointer=saver)

No set-up step is needed, and no pool: one saver serves any number of threads or tasks. layout.py
says which keys hold what.
"""

from langgraph.checkpoint.headwater.saver import AsyncHeadwaterSaver, HeadwaterSaver

__all__ = ["AsyncHeadwaterSaver", "HeadwaterSaver"]
