"""The contract of the store: what is known of an install, shared by all its managers.

Promises that hold for every method:

- Each is one transaction; one that decides (capacity, queue place, lease, key) holds the write lock from its first read.
- An entry's owner and state are compared before it is changed; `LeaseLost` when they are not what the caller believes.
- It never blocks the event loop, and no lock is held while something else is awaited.
- ``is_alive`` arguments tell whether a manager's process still lives; they are called inside the transaction, maybe in another
  thread, must not block, and must not raise. A manager that is not alive owns nothing: its leases are void.
- `StoreBusy` may come from any method.

A run's owner may be dead. `Store` never ends such an entry by itself: `take_over` gives it to a living manager, which finds out
what became of it.

One module for each topic, `store.Store` is all of them together. `cnap_runner.store.sql` has the same modules.
"""

from cnap_runner.store.base.agents import AgentRow
from cnap_runner.store.base.leases import Lease, Wish, WishKind
from cnap_runner.store.base.ledger import Admission, Entry, Intent, NewRun
from cnap_runner.store.base.lives import KeptAgent
from cnap_runner.store.base.managers import IsAlive
from cnap_runner.store.base.sessions import TurnContext
from cnap_runner.store.base.store import Store

__all__ = [
    "Admission",
    "AgentRow",
    "Entry",
    "Intent",
    "IsAlive",
    "KeptAgent",
    "Lease",
    "NewRun",
    "Store",
    "TurnContext",
    "Wish",
    "WishKind",
]
