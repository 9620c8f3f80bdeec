"""Data store and event broker of APScheduler 4 on Headwater.

data_store = HeadwaterDataStore("headwater://localhost:4323")
event_broker = HeadwaterEventBroker("headwater://localhost:4323")
async with AsyncScheduler(data_store, event_broker) as scheduler:
    ...
"""

from apscheduler_headwater.datastore import HeadwaterDataStore
from apscheduler_headwater.eventbroker import HeadwaterEventBroker

__all__ = ["HeadwaterDataStore", "HeadwaterEventBroker"]
