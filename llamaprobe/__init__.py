"""llamaprobe: every intermediate value of a Llama, as NumPy arrays or text files, on a CPU.

    import llamaprobe as lp
    model = lp.load("demo")                  # or a folder, or "meta-llama/Llama-3.2-1B-Instruct"
    run = model.run("Once upon a time")
    run["x"]                                 # float32 [n_layers, n_tokens, d_model]
    run["x_norm", 3]                         # of layer 3: float32 [n_tokens, d_model]
    run.save("x_all_layers")                 # the same as files

Public names are loaded when they are first used, so that `import llamaprobe` is quick.
"""

from importlib import import_module
from importlib.machinery import PathFinder

from . import errors as _errors
from .errors import *  # noqa: F403

TYPE_CHECKING = False  # typing's own takes most of the time of this import

if TYPE_CHECKING:
    from typing import Any

    from . import hub as hub
    from . import offline as offline
    from . import plot as plot
    from . import ray as ray
    from . import reference as reference
    from .cancel import Cancel as Cancel
    from .checkpoint.weights import WeightError as WeightError
    from .comparison import Diff as Diff
    from .comparison import diff as diff
    from .config import UnsupportedConfigError as UnsupportedConfigError
    from .data.harvest import harvest as harvest
    from .data.planning import plan_harvest as plan_harvest
    from .data.reading import read_harvest as read_harvest
    from .data.shard import harvest_shard as harvest_shard
    from .edits.edit import Edit as Edit
    from .edits.edits import Edits as Edits
    from .edits.edits import freeze as freeze
    from .edits.edits import knockout as knockout
    from .edits.edits import like as like
    from .edits.index import DECIDING as DECIDING
    from .edits.index import NEW as NEW
    from .edits.index import PROMPT as PROMPT
    from .files.array import read as read
    from .files.array import write as write
    from .generation.result import GeneratedRun as GeneratedRun
    from .generation.sample import Sample as Sample
    from .generation.session import Session as Session
    from .hub import download as download
    from .hub.errors import *  # noqa: F403
    from .lens.attribution import Attribution as Attribution
    from .lens.logits import Lens as Lens
    from .model import Model as Model
    from .model import load as load
    from .perf.machine import kernels as kernels
    from .prompts.tokenizer import Tokenizer as Tokenizer
    from .run import Run as Run
    from .saved.export import export_weights as export_weights
    from .saved_run import read_run as read_run
    from .stats.collect import collect as collect
    from .stats.file import read_stats as read_stats
    from .stats.stats import merge_stats as merge_stats
    from .sweeps.metric import kl as kl
    from .sweeps.metric import logit_diff as logit_diff
    from .sweeps.metric import logprob as logprob
    from .sweeps.result import Sweep as Sweep

__version__ = "0.1.0"

if PathFinder.find_spec("llamaprobe._core", __path__) is None:  # noqa: F405
    raise ImportError(
        "llamaprobe's C core is not built; in the checkout, build it with: pip install -e ."
    )

# public name -> (module, name there)
_LAZY = {
    "load": ("model", "load"),
    "Model": ("model", "Model"),
    "Run": ("run", "Run"),
    "Sample": ("generation.sample", "Sample"),
    "GeneratedRun": ("generation.result", "GeneratedRun"),
    "Session": ("generation.session", "Session"),
    "Lens": ("lens.logits", "Lens"),
    "Attribution": ("lens.attribution", "Attribution"),
    "Tokenizer": ("prompts.tokenizer", "Tokenizer"),
    "read": ("files.array", "read"),
    "write": ("files.array", "write"),
    "kernels": ("perf.machine", "kernels"),
    "read_run": ("saved_run", "read_run"),
    "export_weights": ("saved.export", "export_weights"),
    "plan_harvest": ("data.planning", "plan_harvest"),
    "harvest_shard": ("data.shard", "harvest_shard"),
    "harvest": ("data.harvest", "harvest"),
    "read_harvest": ("data.reading", "read_harvest"),
    "collect": ("stats.collect", "collect"),
    "read_stats": ("stats.file", "read_stats"),
    "merge_stats": ("stats.stats", "merge_stats"),
    "download": ("hub", "download"),
    "Cancel": ("cancel", "Cancel"),
    "Diff": ("comparison", "Diff"),
    "diff": ("comparison", "diff"),
    "Edit": ("edits.edit", "Edit"),
    "Edits": ("edits.edits", "Edits"),
    "like": ("edits.edits", "like"),
    "freeze": ("edits.edits", "freeze"),
    "knockout": ("edits.edits", "knockout"),
    "PROMPT": ("edits.index", "PROMPT"),
    "NEW": ("edits.index", "NEW"),
    "DECIDING": ("edits.index", "DECIDING"),
    "Sweep": ("sweeps.result", "Sweep"),
    "logit_diff": ("sweeps.metric", "logit_diff"),
    "logprob": ("sweeps.metric", "logprob"),
    "kl": ("sweeps.metric", "kl"),
    "UnsupportedConfigError": ("config", "UnsupportedConfigError"),
    "WeightError": ("checkpoint.weights", "WeightError"),
}

_HUB_ERRORS = (
    *("CaptivePortalError", "ChecksumError", "DisabledError", "DiskFullError"),
    *("EntryNotFoundError", "GatedError", "MetadataError", "NetworkError", "OfflineError"),
    *("RedirectError", "RepoNotFoundError", "RevisionNotFoundError", "ServerError"),
    *("TokenError", "TransferError", "UnsafeNameError"),
)
_LAZY |= {name: ("hub.errors", name) for name in _HUB_ERRORS}

_MODULES = ("hub", "offline", "plot", "ray", "reference")

__all__ = [*_errors.__all__, "__version__", *_LAZY]


def __getattr__(name: str) -> "Any":
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    value = getattr(import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    own = {name for name in globals() if name.startswith("__")}
    return sorted({*own, *__all__, *_MODULES})
