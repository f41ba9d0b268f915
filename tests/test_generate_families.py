"""Generation of every family: a run of the whole text, windows and tables of RoPE included."""

from pathlib import Path

import family_models
import pytest
import truth

import llamaprobe as lp

pytestmark = pytest.mark.skipif(not truth.available(), reason="torch or transformers is missing")

CASES = {case.name: case for case in family_models.family_cases()}


@pytest.fixture(scope="module")
def longrope(tmp_path_factory: pytest.TempPathFactory) -> lp.Model:
    """Its table changes after 16 tokens."""
    return lp.load(CASES["phi3-short"].make(tmp_path_factory.mktemp("longrope")))


@pytest.mark.parametrize("name", CASES)
def test_generate_is_a_run_of_the_whole_text(name: str, tmp_path: Path):
    """Prompts on both sides of the window of 7 keys and of the 16 positions of a short table."""
    model = lp.load(CASES[name].make(tmp_path))
    prompts = [[5, 6, 7], list(range(20, 34)), list(range(40, 57))]
    samples = [None, lp.Sample(seed=1), lp.Sample(2.0, top_k=30)]
    runs = model.generate(prompts, 9, sample=samples, points="all", stop=())
    for run, prompt, sample in zip(runs, prompts, samples, strict=True):
        whole = model.run(run.token_ids, points="all", rope_length=run.rope_length)
        assert run.equals(whole) and len(run) == len(prompt) + 9
        alone = model.generate(prompt, 9, sample=sample, stop=())
        assert alone.token_ids.tolist() == run.token_ids.tolist()


def test_prompt_and_n_tokens_choose_the_table(longrope: lp.Model):
    ids = list(range(3, 13))
    short, long = (longrope.generate(ids, n, points="q_rope", stop=()) for n in (6, 7))
    assert (short.rope_length, long.rope_length) == (16, 17)
    assert not (short["q_rope"][:, 5] == long["q_rope"][:, 5]).all()
    assert longrope.run(ids, points="q_rope")["q_rope"].tobytes() == (
        short["q_rope"][:, :10].tobytes()
    )
    both = longrope.generate([ids, ids[:4]], 7, points="q_rope", stop=())
    assert both[0].equals(long) and both[1].rope_length == 11
    assert lp.load("demo").generate([1], 2).rope_length is None


def test_a_session_keeps_to_its_table(longrope: lp.Model):
    session = longrope.start(list(range(14)), points="k_rope")
    session.extend([1, 2])
    with pytest.raises(
        lp.ArgumentError, match=r"from 16 to 17 tokens: .*_embeddings, 16, this model"
    ):
        session.extend([3])
    with pytest.raises(lp.ArgumentError, match="uses another LongRoPE table"):
        session.generate(1)
    assert session.run.equals(longrope.run(session.token_ids, points="k_rope"))
    session = longrope.start(list(range(17)), points="k_rope")
    session.generate(4, stop=())
    session.rewind(17)
    with pytest.raises(lp.ArgumentError, match="from 17 to 16 tokens"):
        session.rewind(16)
    assert session.run.equals(longrope.run(session.token_ids, points="k_rope"))
