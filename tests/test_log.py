"""The logger `llamaprobe`: its records, and that nothing is shown or loaded without a request."""

import logging
import subprocess
import sys
from pathlib import Path

import models
import pytest

import llamaprobe as lp
from llamaprobe import log


def test_where_things_were_found(caplog: pytest.LogCaptureFixture, demo_folder: Path):
    with caplog.at_level(logging.DEBUG, "llamaprobe"):
        model = lp.load("demo", threads=1)
        model.run([{"role": "user", "content": "Hi"}], points="x")
    said = [record.getMessage() for record in caplog.records]
    assert all(record.name == "llamaprobe" for record in caplog.records)
    assert any(f"demo: opened from {model.path}, 4 layers" in line for line in said)
    assert any(line.endswith("the tokenizer") for line in said)
    assert any("chat template; it runs in this process" in line for line in said)
    assert any(line.startswith("run: 1 prompts, ") and "1 threads" in line for line in said)


def test_logs_an_absent_tokenizer_and_a_warning(
    caplog: pytest.LogCaptureFixture, random_checkpoint
):
    folder = random_checkpoint(auto_map={"AutoModel": "x.Y"})
    with caplog.at_level(logging.INFO, "llamaprobe"), pytest.warns(UserWarning, match="auto_map"):
        assert lp.load(folder).run([1, 2]).tokens is None
    levels = {record.levelname: record.getMessage() for record in caplog.records}
    assert "auto_map" in levels["WARNING"]
    assert any("no tokenizer.json" in record.getMessage() for record in caplog.records)


def test_a_warning_points_at_the_caller(recwarn: pytest.WarningsRecorder):
    def library() -> None:
        log.warn("look out", stacklevel=2)

    library()
    (warning,) = recwarn.list
    assert warning.filename == __file__ and str(warning.message) == "look out"


def test_our_only_handler_shows_nothing():
    handlers = log.logger().handlers
    assert [type(handler) for handler in handlers] == [logging.NullHandler]
    assert log.logger().handlers is handlers and len(handlers) == 1


def python(code: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_logging_is_not_imported_for_hidden_records(tmp_path: Path):
    config = models.make_config()
    models.write_checkpoint(tmp_path, config, models.make_weights(config))
    code = "import sys, llamaprobe as lp; lp.load(sys.argv[1]).run([1]); print('logging' in sys.modules)"
    assert python(code, str(tmp_path)) == "False\n"


def test_a_program_that_configures_logging_sees_records(tmp_path: Path):
    config = models.make_config()
    models.write_checkpoint(tmp_path, config, models.make_weights(config))
    code = "import logging, sys, llamaprobe as lp; logging.basicConfig(level='INFO'); lp.load(sys.argv[1])"
    assert f"INFO:llamaprobe:{tmp_path}: opened from {tmp_path}, 3 layers" in python(code, str(tmp_path))
    silent = "import logging, sys, llamaprobe as lp; lp.load(sys.argv[1])"
    assert python(silent, str(tmp_path)) == ""
