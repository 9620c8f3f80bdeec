"""LangGraph's long-term memory on Headwater.

    with HeadwaterStore.from_conn_string("headwater://localhost:4323") as store:
        graph = builder.compile(store=store)

No set-up step is needed, and no pool: one store serves any number of threads or tasks.
"""

from langgraph.store.headwater.store import AsyncHeadwaterStore, HeadwaterStore

__all__ = ["AsyncHeadwaterStore", "HeadwaterStore"]
