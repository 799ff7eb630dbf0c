"""What a run notes in its folder beside the records of its requests."""

import pytest

from harness.analysis.warnings.engine import died
from harness.errors import EXIT_ENGINE
from harness.execution.run_folder import RunOutcome, note_death
from harness.messages import message, plain, render
from harness.results import store

URL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("lines", "english", "chinese"),
    [
        (
            (message("engines.died_unreachable", url=URL),),
            f"the engine at {URL} died: nothing answers there any more",
            f"{URL} 的引擎已退出：该地址不再响应",
        ),
        ((plain("worker: out of memory."),), "worker: out of memory", "worker: out of memory"),
        ((plain("one"), plain("two")), "one; two", "one；two"),
    ],
)
def test_the_death_of_an_engine_is_kept_as_text_and_as_a_message(tmp_path, lines, english, chinese):
    """run.json has the English sentence for programs; the warning of the result reads it in both languages."""
    store.write_json(tmp_path, store.RUN, {"format": 1, "name": "x", "question": "", "stages": []})

    note_death(tmp_path, RunOutcome(EXIT_ENGINE, lines))
    run = store.read_run(tmp_path)
    (warning,) = died(None, run)

    assert run["engine"]["died"].rstrip(".") == english
    assert str(warning.text) == f"The run did not come to its end: {english}."
    assert render(warning.text, "zh") == f"运行没有正常结束：{chinese}。"
