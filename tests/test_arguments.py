"""Arguments of every wrong type, for every public call of edits, generation, sweeps, statistics, lens, pictures and
differences: each is refused with an error of llamaprobe, or has a meaning. Nothing of Python's or NumPy's own comes out,
no warning either."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wrong_values import faults_of

import llamaprobe as lp

IDS = [1, 5, 9, 12, 7]


class Things:
    """One of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = lp.load("demo")
        self.run = self.model.run(IDS, points="all")
        self.short = self.model.run(IDS, points=("x", "x_out", "logits"))
        self.session = self.model.start(IDS, points="x")
        self.lens = self.model.lens(self.run)
        self.shares = self.model.attribute(self.run, 3)
        metric = lp.logit_diff(3, 4)
        self.sweep = self.model.patch_map(IDS, [1, 6, 9, 12, 7], metric=metric, layers=3)
        self.diff = lp.diff(self.run, self.short)
        self.plan = lp.plan_harvest(self.model, [IDS], folder / "plan", points="x:1")
        how: dict[str, Any] = {
            "stats": ("range", "moments", "histogram", "gram", "top:2", "firing:0.5")
        }
        self.stats = lp.collect(self.model, [IDS, [4, 2]], points="x:1", **how)
        self.maps = lp.collect(self.model, [IDS], points="pattern", stats="moments")
        self.inputs = lp.collect(self.model, [IDS], points="z:1", stats=("range", "moments"))
        self.inputs.save(folder / "stats")
        self.channels = self.stats["x", 1]

    def edits(self) -> lp.Edits:
        e = lp.Edits()
        e["x", 1][2] = 0
        return e


def calls(t: Things) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Name -> the call, and arguments that it takes."""
    one, two, metric = t.edits(), t.edits(), lp.logprob(3)
    start = t.session.copy

    def assign(op: str) -> Callable[..., Any]:
        def call(name: Any, index: Any, value: Any) -> None:
            e = lp.Edits()
            exec(
                f"e[name][index] {op} value", {"e": e, "name": name, "index": index, "value": value}
            )
            t.model.run(IDS, points="logits", edits=e)

        return call

    def knock(**how: Any) -> None:
        t.model.run(IDS, points="logits", edits=lp.knockout(**how))

    def number(key: Any) -> Any:
        return copy.copy(one)[key]

    def choose(logits: Any, position: Any, **how: Any) -> Any:
        return lp.Sample(**how).choose(logits, position)

    row = t.run["logits"][-1]
    sample = {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "seed": 1, "number": 2}
    generate = {"sample": None, "stop": (), "on_token": None, "timeout": None, "cancel": None}
    several = {"points": "x", "layers": 1, "edits": None, "threads": 1}
    place = {"position": -1}
    kept = {"force": True, "path": t.folder / "file"}
    pictured = {
        "plot.pattern": (lp.plot.pattern, {"run": t.run, "layer": 1, "head": 0, "ax": None}),
        "plot.norms": (lp.plot.norms, {"run": t.run, "point": "x", "ax": None}),
        "plot.channels": (lp.plot.channels, {"run": t.run, "point": "x", "n": 2, "ax": None}),
        "plot.lens": (lp.plot.lens, {"lens": t.lens, "ax": None}),
        "plot.attribution": (lp.plot.attribution, {"attribution": t.shares, "n": 3, "ax": None}),
        "plot.patch_map": (
            lp.plot.patch_map,
            {"sweep": t.sweep, "head": None, "position": None, "tokens": None, "ax": None},
        ),
        "plot.stats": (lp.plot.stats, {"values": t.stats, "name": "value", "ax": None}),
        "plot.diff": (lp.plot.diff, {"difference": t.diff, "ax": None}),
    }
    return {
        "Edits": (lp.Edits, {"edits": one}),
        "Edits.parse": (lp.Edits.parse, {"text": "x[1][2] = 0"}),
        "edits[]": (number, {"key": 0}),
        "edit =": (assign("="), {"name": ("x", 1), "index": 2, "value": 1}),
        "edit +=": (assign("+="), {"name": ("scores", 1), "index": (0, 3, 1), "value": 1}),
        "edit.map": (
            lambda function, whole: one["x", 1].map(function, whole=whole),
            {"function": len, "whole": False},
        ),
        "like": (lp.like, {"run": t.run, "point": "x", "layer": 1, "index": 2}),
        "freeze": (lp.freeze, {"run": t.run, "points": "x", "layers": None}),
        "knockout": (knock, {"layer": 1, "query": 3, "key": 1, "head": None}),
        "run": (lambda **how: t.model.run(IDS, **how), {"points": "x", "edits": two}),
        "run of a batch": (lambda **how: t.model.run([IDS, IDS], **how), {"edits": [two, None]}),
        "Sample": (lp.Sample, sample),
        "Sample.choose": (choose, {"logits": row, "position": 3}),
        "generate": (t.model.generate, {"prompt": IDS, "n_tokens": 2, **generate, **several}),
        "generate a batch": (
            lambda **how: t.model.generate([IDS, IDS], 2, **how),
            {"sample": None, "on_token": None, "edits": None},
        ),
        "start": (t.model.start, {"prompt": IDS, "max_tokens": 20, **several}),
        "Session.extend": (lambda more: start().extend(more), {"more": [3]}),
        "Session.generate": (lambda **how: start().generate(**how), {"n_tokens": 2, **generate}),
        "Session.rewind": (lambda position: start().rewind(position), place),
        "session[]": (lambda point: t.session[point], {"point": "x"}),
        "sweep": (t.model.sweep, {"prompt": IDS, "edits": [one], "metric": metric, "threads": 1}),
        "sweep of a function": (
            lambda value: t.model.sweep(IDS, [one], lambda row: value),
            {"value": 1.0},
        ),
        "patch_map": (
            t.model.patch_map,
            {
                **{"clean": IDS, "corrupted": [1, 6, 9, 12, 7], "metric": metric, "point": "z"},
                **{"heads": False, "layers": 3, "positions": 4},
            },
        ),
        "logit_diff": (
            lambda **how: t.model.sweep(IDS, [], lp.logit_diff(**how)),
            {"a": 3, "b": 4, **place},
        ),
        "logprob": (lambda **how: t.model.sweep(IDS, [], lp.logprob(**how)), {"a": 3, **place}),
        "kl": (lambda **how: t.model.sweep(IDS, [], lp.kl(**how)), {"run": t.run, **place}),
        "lens": (
            t.model.lens,
            {"run": t.run, "point": "x", "layers": None, **place, "top": 3, "tokens": None},
        ),
        "Lens.top": (t.lens.top, {"row": 0, "position": 0, "n": 3}),
        "Lens.table": (t.lens.table, {"n": 2}),
        "attribute": (
            t.model.attribute,
            {"run": t.run, "token": 3, "against": 4, **place, "by": "layer"},
        ),
        "Attribution.top": (t.shares.top, {"n": 2, "kind": "mlp"}),
        "attribution[]": (lambda component: t.shares[component], {"component": ("mlp", 2)}),
        "head_out": (t.model.head_out, {"run": t.run, "layer": 2}),
        "direct_effect": (
            t.model.direct_effect,
            {"run": t.run, "token": 3, "component": ("head", 2, 1), "against": None, **place},
        ),
        "diff": (lp.diff, {"a": t.run, "b": t.short}),
        "run[]": (lambda point: t.run[point], {"point": "x"}),
        "collect": (
            lp.collect,
            {
                **{"model": t.model, "data": t.plan, "stats": "range", "points": "x:1"},
                **{"layers": None, "mask": None, "by": "none", "keys": 4, "part": (0, 1)},
                **{"threads": 1, "batch_tokens": 9},
            },
        ),
        "collect exact": (
            lambda exact: lp.collect(t.model, t.plan, stats="histogram", points="x:1", exact=exact),
            {"exact": (0.5,)},
        ),
        "merge_stats": (lp.merge_stats, {"parts": [t.stats]}),
        "read_stats": (lp.read_stats, {"path": t.folder / "stats"}),
        "Stats.save": (t.stats.save, kept),
        "Stats.write_npz": (t.stats.write_npz, kept),
        "Stats.write_imatrix": (t.inputs.write_imatrix, {**kept, "dataset": ""}),
        "Stats.write_act_scales": (t.inputs.write_act_scales, kept),
        "stats[]": (lambda key: t.stats[key], {"key": ("x", 1)}),
        "Stats.channels": (t.stats.channels, {"name": "x.1", "group": "rest"}),
        "Stats.sinks": (t.maps.sinks, {"threshold": 0.3, "seen": 0.5}),
        "Stats.massive": (t.stats.massive, {"above": 1.0, "times": 2.0}),
        "Stats.outliers": (
            t.stats.outliers,
            {"point": "x", "above": 2.0, "layers": 0.1, "tokens": 0.1},
        ),
        "Channels.of": (t.channels.of, {"group": "first"}),
        "Channels.var": (t.channels.var, {"ddof": 1}),
        "Channels.std": (t.channels.std, {"ddof": 1}),
        "Channels.covariance": (t.channels.covariance, {"ddof": 1}),
        "Channels.power_sums": (t.channels.power_sums, {"p": 2}),
        "Channels.quantile": (t.channels.quantile, {"q": 0.5}),
        "Channels.count_from": (t.channels.count_from, {"magnitude": 2.0}),
        "Channels.fires": (t.channels.fires, {"theta": 0.5}),
        "Channels.rate": (t.channels.rate, {"theta": 0.5}),
        "Channels.top": (t.channels.top, {"channel": 3}),
        "run.to_pandas": (t.run.to_pandas, {"point": "final_rms"}),
        "run.html": (
            lambda **how: t.run.html(**how),
            {"path": t.folder / "page.html", "model": None, "heads": [(1, 1)]},
        ),
        **(pictured if has_matplotlib() else {}),
    }


def has_matplotlib() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Things]:
    things = Things(tmp_path_factory.mktemp("arguments"))
    with things.model:
        yield things


NAMES = (
    *("Edits", "Edits.parse", "edits[]", "edit =", "edit +=", "edit.map", "like", "freeze"),
    *("knockout", "run", "run of a batch", "Sample", "Sample.choose", "generate"),
    *("generate a batch", "start", "Session.extend", "Session.generate", "Session.rewind"),
    *("session[]", "sweep", "sweep of a function", "patch_map", "logit_diff", "logprob", "kl"),
    *("lens", "Lens.top", "Lens.table", "attribute", "Attribution.top", "attribution[]"),
    *("head_out", "direct_effect", "diff", "run[]", "collect", "collect exact", "merge_stats"),
    *("read_stats", "Stats.save", "Stats.write_npz", "Stats.write_imatrix"),
    *("Stats.write_act_scales", "stats[]", "Stats.channels", "Stats.sinks", "Stats.massive"),
    *("Stats.outliers", "Channels.of", "Channels.var", "Channels.std", "Channels.covariance"),
    *("Channels.power_sums", "Channels.quantile", "Channels.count_from", "Channels.fires"),
    *("Channels.rate", "Channels.top", "run.to_pandas", "run.html"),
    *("plot.pattern", "plot.norms", "plot.channels", "plot.lens", "plot.attribution"),
    *("plot.patch_map", "plot.stats", "plot.diff"),
)

NEEDS = {"Stats.write_imatrix": ("gguf",), "run.to_pandas": ("pandas",)}


@pytest.mark.parametrize("name", NAMES)
def test_an_argument_of_any_type_is_refused_or_has_a_meaning(
    things: Things, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(things.folder)
    for needed in NEEDS.get(name, ()):
        pytest.importorskip(needed)
    if name not in calls(things):
        pytest.skip("needs matplotlib: pip install -e '.[plot]'")
    faults = faults_of(*calls(things)[name])
    assert not faults, "\n".join([f"{name}: {len(faults)}", *faults])
