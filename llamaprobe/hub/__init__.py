"""Models from the hub: resumable, hashed on the way, the token for the hub alone.

    from llamaprobe.hub import download
    folder = download("meta-llama/Llama-3.2-1B-Instruct")

From the user's call downwards: fetch.py (download, snapshot, plan), check.py (hashes what is on
disk), transfer.py (files and ranges in parallel), repo.py (one repository of the hub), client.py
(requests and retries), connection.py (one request: origin, token, deadline), store.py and
local_store.py (where files go), folder.py (an open folder), listing.py (which files), names.py
(which names are safe), settings.py (environment and token). Nothing here imports `requests` before
the hub has to be contacted.
"""

from . import errors
from .errors import *  # noqa: F403
from .fetch import download, plan, snapshot

__all__ = ["download", "plan", "snapshot"]
__all__ += errors.__all__
