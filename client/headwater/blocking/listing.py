"""Listings without an event loop; see listing.py."""

from headwater.blocking.pages import BlockingPages
from headwater.database import Database
from headwater.reads.listing import CategoryInfo, StreamInfo
from headwater.reads.past import Past
from headwater.reads.reads import Reads
from headwater.records import StoredSnapshot


class BlockingListings:
    """What there is, now or in the past; see Database and Past."""

    _reads: Reads

    def streams(self, *, prefix: str = "") -> BlockingPages[StreamInfo]:
        return BlockingPages(self._listed.streams(prefix=prefix))

    def categories(self) -> BlockingPages[CategoryInfo]:
        return BlockingPages(self._listed.categories())

    def snapshots(self) -> BlockingPages[StoredSnapshot]:
        return BlockingPages(self._listed.snapshots())

    @property
    def _listed(self) -> Database | Past:
        assert isinstance(self._reads, Database | Past)
        return self._reads
