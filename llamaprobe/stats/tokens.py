"""Which tokens are counted, and in which group: by mask, position or token id."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import listed, refusal, shown, whole
from ..data.batches import ids_of
from ..data.plan import Plan, positions_of
from ..errors import ArgumentError
from ..messages import counted

Mask = Callable[[NDArray[np.int32]], Any] | Iterable[Any] | str | None
By = str | Iterable[int]
MOST_GROUPS = 1024
_BY = "first, none, position, token, or a list of token ids"
_MASK = "'assistant', a function of token ids, or for each document a list with one bool per token"


class Groups:
    """The token groups of one plan; `names` in order."""

    def __init__(self, plan: Plan, by: By, mask: Mask, vocab_size: int) -> None:
        """Raises ArgumentError, also for a mask that leaves out every token."""
        self._plan = plan
        self._masks = None if mask is None else _masks(plan, mask)
        self._tokens: NDArray[np.int64] | None = None
        if isinstance(by, str):
            self.by = by
            self.names = self._names(by)
        else:
            self.by = "token"
            ids = [whole("a token of by", token, 0) for token in listed("by", by, _BY)]
            self._tokens = np.unique(np.array(ids, np.int64))
            self.names = [str(token) for token in self._tokens.tolist()]
        if not 1 <= len(self.names) <= MOST_GROUPS:
            raise ArgumentError(
                f"by={shown(by)} makes {counted(len(self.names), 'group')}; the most"
                f" are {MOST_GROUPS}. For tokens give their ids: by=[11, 13]"
            )
        if self._tokens is not None and self._tokens[-1] >= vocab_size:
            whole("a token of by", self._tokens[-1], 0, vocab_size)

    def _names(self, by: str) -> list[str]:
        if by == "first":
            return ["first", "rest"]
        if by == "none":
            return ["every"]
        windows = self._plan.windows
        if by == "position":
            return [str(n) for n in range(int((windows.stop - windows.start).max()))]
        if by == "token":
            ids = (ids_of(self._plan, window) for window in range(len(windows.document)))
            self._tokens = _distinct(ids)
            return [str(token) for token in self._tokens.tolist()]
        raise refusal("by", by, _BY)

    @property
    def mask_sha256(self) -> str | None:
        """The sha256 over the masks of all documents; None without a mask."""
        if self._masks is None:
            return None
        digest = hashlib.sha256()
        for each in self._masks:
            digest.update(len(each).to_bytes(8, "little") + np.packbits(each).tobytes())
        return digest.hexdigest()

    def of(self, window: int) -> NDArray[np.int32]:
        """The group of each token of a window; -1 for those that are left out."""
        windows = self._plan.windows
        document, start = int(windows.document[window]), int(windows.start[window])
        n = int(windows.stop[window]) - start
        groups = np.full(n, -1, np.int32)
        kept = positions_of(self._plan, window)
        groups[kept] = self._group(window, n)[kept]
        if self._masks is not None:
            groups[~self._masks[document][start : start + n]] = -1
        return groups

    def _group(self, window: int, n: int) -> NDArray[np.int32]:
        if self.by == "first":
            return (np.arange(n) > 0).astype(np.int32)
        if self.by == "position":
            return np.arange(n, dtype=np.int32)
        if self._tokens is None:
            return np.zeros(n, np.int32)
        ids = ids_of(self._plan, window)
        at = np.minimum(np.searchsorted(self._tokens, ids), len(self._tokens) - 1)
        return np.where(self._tokens[at] == ids, at, -1).astype(np.int32)


def _distinct(parts: Iterable[NDArray[np.int32]]) -> NDArray[np.int64]:
    found: set[int] = set()
    for ids in parts:
        found.update(np.unique(ids).tolist())
    return np.array(sorted(found), np.int64)


def _masks(plan: Plan, mask: Any) -> list[NDArray[np.bool_]]:
    """For each document, bool [n_tokens]. ArgumentError."""
    lengths = plan.tokens.lengths().tolist()
    if callable(mask):
        given = [mask(plan.tokens.of(document)) for document in range(len(lengths))]
    else:
        given = listed("mask", mask, _MASK)
    if len(given) != len(lengths):
        raise ArgumentError(f"mask has {len(given)} documents, the data {len(lengths)}")
    found = []
    for document, (each, n) in enumerate(zip(given, lengths, strict=True)):
        try:
            array = np.asarray(each)
        except Exception:  # a ragged list
            array = np.zeros((), object)
        if array.shape != (n,) or array.dtype.kind not in "biu":
            raise ArgumentError(
                f"mask: document {document} has {counted(n, 'token')}, and the mask is"
                f" {array.dtype} of the shape {list(array.shape)}; give a bool for each"
            )
        found.append(array.astype(bool))
    if not any(each.any() for each in found):
        raise ArgumentError("mask leaves out every token of every document")
    return found


def data_sha256(plan: Plan) -> str:
    """The sha256 over all token ids and how they are cut into windows."""
    digest = hashlib.sha256()
    windows = plan.windows
    for array in (plan.tokens.lengths(), windows.document, windows.start, windows.stop):
        digest.update(np.ascontiguousarray(array, "<i8").tobytes())
    bos = plan.facts["options"].get("bos_token")
    if bos is not None:  # the BOS that begins the later windows of a document
        digest.update(f"bos {bos}".encode())
    for document in range(len(plan.tokens)):
        digest.update(np.ascontiguousarray(plan.tokens.of(document), "<i4").tobytes())
    return digest.hexdigest()
