"""Figures, drawn with matplotlib: `pip install 'llamaprobe[plot]'`.

Each function draws into `ax`, or into a new figure, and returns the Figure. A notebook shows it;
`figure.savefig` writes it to a file.
"""

from .comparisons import diff as diff
from .comparisons import patch_map as patch_map
from .comparisons import stats as stats
from .pictures import attribution as attribution
from .pictures import channels as channels
from .pictures import lens as lens
from .pictures import norms as norms
from .pictures import pattern as pattern

__all__ = ["attribution", "channels", "diff", "lens", "norms", "patch_map", "pattern", "stats"]
