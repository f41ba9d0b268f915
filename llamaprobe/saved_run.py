"""`read_run`: a run from its folder."""

import dataclasses
import os

from .errors import ArgumentError, FormatError
from .generation.captured import Values
from .generation.result import GeneratedRun
from .generation.sample import Sample
from .messages import shown_path
from .origin import Origin
from .run import Run
from .saved.edits import check_hashes
from .saved.manifest import MANIFEST
from .saved.read import Saved


def read_run(folder: str | os.PathLike[str]) -> Run:
    """The run that `run.save(folder)` wrote, equal to it bit for bit if it was saved with the
    shortest digits or as npy (a NaN may be another NaN): the same points, arrays, tokens, prompt,
    edits and numbers of the model; a `GeneratedRun` if it was one; `run.equals` compares. The model itself is not needed.

    Raises FileError (no manifest, a file is missing), FormatError (a file that is not what was
    saved; line and column of text that is not a number), NewerFormatError (a later format version).
    `llamaprobe verify` checks whether values were altered.
    """
    saved = Saved(folder)
    values, origin = saved.arrays(), saved.origin()
    run = run_of(saved, values, origin)
    check_hashes(saved.folder, saved.manifest.get("edits", []))
    run.saved_in = os.path.abspath(os.fsdecode(saved.folder))
    return run


def run_of(saved: Saved, values: Values, origin: Origin) -> Run:
    """A run with the facts of the files. FileError, FormatError."""
    prompt, facts = saved.prompt(), saved.generated
    if facts is None:
        return Run(prompt, values, origin, saved.rope_length, saved.edits)
    of_prompt = dataclasses.replace(prompt, token_ids=prompt.token_ids[: facts.n_prompt])
    return GeneratedRun(
        of_prompt,
        prompt.token_ids.tolist(),
        values,
        origin,
        saved.rope_length,
        list(facts.logprobs),
        sample_of(saved),
        facts.stop,
        facts.stopped_by,
        saved.edits,
        facts.n_tokens,
        facts.text,
    )


def sample_of(saved: Saved) -> Sample | None:
    """How the new tokens of a generated run were chosen; None: greedily. FormatError."""
    facts = saved.generated
    try:
        return None if facts is None or facts.sample is None else Sample(**facts.sample)
    except ArgumentError as error:
        raise FormatError(f"{shown_path(saved.folder / MANIFEST)}: generated: {error}") from error
