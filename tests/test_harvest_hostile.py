"""Files of a harvest that a stranger altered: an error in our words, or none, never a traceback."""

import json
import random
import shutil

import pytest
from harvests import documents, finish, make_plan

import llamaprobe as lp
from llamaprobe.data.check import check_harvest
from llamaprobe.data.copies import merge

VALUES = (None, True, 0, -1, 5, 1 << 62, 1.5, "", "x", "../x", "/etc", [], [1], {}, {"a": 1})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harvest") / "out"
    finish(make_plan(folder, documents(8)))
    return folder


def places(value, way=()):
    """Every way to a value inside a JSON object."""
    if way:
        yield way
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in list(items):
            yield from places(inner, (*way, key))


def altered(facts, rng):
    facts = json.loads(json.dumps(facts))
    *way, last = rng.choice(list(places(facts)))
    inner = facts
    for key in way:
        inner = inner[key]
    if isinstance(inner, dict) and rng.random() < 0.3:
        value = inner.pop(last)
        if rng.random() < 0.7:
            inner[rng.choice(["", "../a", "/etc/a", "x.1", "a/b/c", "\0"])] = value
    else:
        inner[last] = rng.choice(VALUES)
    return facts


def use(folder):
    """Everything that reads the folder; the class of each error."""
    errors = set()

    def attempt(call):
        try:
            call()
        except lp.Error as error:
            errors.add(type(error))
            assert str(error)

    attempt(lambda: list(check_harvest(folder)))
    attempt(lambda: [lp.read_harvest(folder)[point][:3] for point in ("x.1", "logits")])
    attempt(lambda: lp.read_harvest(folder).where(doc=1))
    attempt(lambda: lp.harvest_shard(folder, 0))
    attempt(lambda: merge(folder, []))
    return errors


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["plan.json", "manifest.json", "done/shard-00000.json", "model.json"]
)
def test_json_with_other_values(made, tmp_path, name):
    rng = random.Random(name)
    facts, refused = json.loads((made / name).read_text()), 0
    for number in range(40):
        folder = shutil.copytree(made, tmp_path / str(number))
        (folder / name).write_text(json.dumps(altered(facts, rng)))
        if name == "model.json":
            (folder / "done/shard-00000.json").unlink()
        refused += bool(use(folder))
        shutil.rmtree(folder)
    assert refused > 10 or name in ("done/shard-00000.json", "model.json")


@pytest.mark.parametrize(
    "name", ["plan.json", "windows.safetensors", "tokens/part-00000.safetensors", "model.json"]
)
def test_truncated_and_flipped_bytes(made, tmp_path, name):
    rng = random.Random(name)
    data = (made / name).read_bytes()
    for number in range(20):
        folder = shutil.copytree(made, tmp_path / str(number))
        (folder / "manifest.json").unlink()
        (folder / "done/shard-00000.json").unlink()
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(changed if number % 2 else data[: rng.randrange(len(data))])
        use(folder)
        shutil.rmtree(folder)


def test_a_path_out_of_the_folder_is_refused(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "out")
    facts = json.loads((folder / "plan.json").read_text())
    for change in (
        {"files": {**facts["files"], "/etc/a": {"bytes": 1, "sha256": ""}}},
        {"files": {**facts["files"], "tokens/../../a": {"bytes": 1, "sha256": ""}}},
        {"targets": {"../x.1": {"shape": [1]}}},
        {"targets": {"/x": {"shape": [1]}}},
    ):
        (folder / "plan.json").write_text(json.dumps(facts | change))
        with pytest.raises(lp.FormatError, match="is invalid"):
            lp.read_harvest(folder)
