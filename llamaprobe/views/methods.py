"""The display methods of models and runs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..arguments import instance, listed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..model import Model
    from ..run import Run


def check_model(value: object, name: str = "model") -> None:
    """ArgumentError."""
    instance(name, value, ModelViews, "what lp.load(...) returned")


def check_run(value: object, name: str = "run") -> None:
    """ArgumentError."""
    way_out = "what model.run(...) returned, or lp.read_run(folder) of a saved run"
    instance(name, value, RunViews, way_out)


class ModelViews:
    """Base class of `Model`."""

    def _repr_html_(self) -> str:
        from .model import model_html

        model = cast("Model", self)
        return model_html(model, closed=model._core is None)


class RunViews:
    """Base class of `Run`."""

    def to_pandas(self, point: str | None = None) -> Any:
        """The values of a point as a DataFrame with one row per number and columns for layer,
        token, text, head, channel and value, as far as the point has them. Without a point, one row
        per token: its id, its text, and the rms of x if the run holds x. Needs pandas.
        """
        from .tables import point_frame, token_frame

        run = cast("Run", self)
        return token_frame(run) if point is None else point_frame(run, point)

    def to_xarray(self) -> Any:
        """A Dataset with one variable per point, dimensions layer, token, head, channel, key, ...,
        and the token texts as a coordinate. The arrays are not copied. Needs xarray."""
        from .tables import run_dataset

        return run_dataset(cast("Run", self))

    def html(
        self,
        path: str | os.PathLike[str],
        *,
        model: "Model | None" = None,
        heads: "Iterable[tuple[int, int]]" = (),
    ) -> Path:
        """Write one HTML page about the run and return its path: tokens, norms of x, each layer's
        mean pattern and the patterns of `heads` (layer, head), as far as the run holds them; with
        `model`, a lens on the last positions. The page needs no network and no other file, and is
        smaller than 2 MB.

        Raises PointError (no pattern for a requested head), ArgumentError, FileError.
        """
        from .page import write_page

        if model is not None:
            check_model(model)
        each = listed("heads", heads, "(layer, head) of each")
        return write_page(cast("Run", self), path, model=model, heads=each)

    def _repr_html_(self) -> str:
        from .run import run_html

        return run_html(cast("Run", self))

    def _ipython_key_completions_(self) -> list[str | tuple[str, int]]:
        from .run import keys

        return keys(cast("Run", self))
