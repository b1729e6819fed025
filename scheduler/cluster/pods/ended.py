"""The pods that ended lately: kube-scheduler may hear of it later."""

from collections import OrderedDict
from typing import Final

_MOST: Final = 4096


class EndedLately:
    """UIDs; no UID is used twice."""

    def __init__(self) -> None:
        self._uids: OrderedDict[str, None] = OrderedDict()

    def add(self, uid: str) -> None:
        """Note the end of a pod."""
        self._uids[uid] = None
        if len(self._uids) > _MOST:
            self._uids.popitem(last=False)

    def __contains__(self, uid: str) -> bool:
        return uid in self._uids
