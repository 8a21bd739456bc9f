"""A run goes on whatever happens to a stage, keeps to its budget, and leaves all that it has measured."""

import time
import warnings

import pytest

from bench.records import Record, RecordFile, read_records
from bench.stages import Budget, Result, Stage, run_stages


def stage(name: str, measure=lambda: [], *, like="a kind", estimate=1.0, is_essential=False) -> Stage:
    return Stage(name, like, estimate, measure, is_essential)


def run(stages, path, *, seconds=100.0) -> dict[str, dict]:
    """The last record of each stage."""
    file = RecordFile(path)
    run_stages(stages, file, Budget(seconds, since=time.time()))
    return {each.stage: each.values for each in file.read() if each.kind == "stage"}


def test_a_stage_that_fails_is_recorded_with_its_error_and_the_next_one_runs(tmp_path):
    def fail():
        yield Result("part", {"value": 1})
        raise ZeroDivisionError("no denominator\nand more")

    ends = run([stage("bad", fail), stage("good", lambda: [Result("part", {"value": 2})])], tmp_path / "a.jsonl")
    assert ends["bad"]["outcome"] == "failed"
    assert ends["bad"]["reason"] == "ZeroDivisionError: no denominator"
    assert ends["good"]["outcome"] == "done"
    parts = [each for each in read_records(tmp_path / "a.jsonl") if each.kind == "part"]
    assert parts == [Record("bad", "part", {"value": 1}), Record("good", "part", {"value": 2})]


def test_an_interruption_ends_the_run(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([stage("interrupted", interrupt)], tmp_path / "a.jsonl")


def test_a_stage_for_which_there_is_no_time_is_skipped_and_the_reason_says_so(tmp_path):
    ends = run([stage("long", estimate=200.0), stage("short", like="another")], tmp_path / "a.jsonl")
    assert ends["long"]["outcome"] == "skipped"
    assert ends["long"]["reason"] == "it takes about 200 s, and 100 s are left"
    assert ends["short"]["outcome"] == "done"


def test_what_one_of_its_kind_took_counts_instead_of_the_estimate():
    budget = Budget(100.0, since=time.time())
    budget.note(stage("first"), 70.0)
    budget.note(stage("second"), 30.0)
    assert budget.expected(stage("third")) == 70.0
    assert budget.expected(stage("other", like="another")) == 1.0
    assert "about 70 s" in budget.refusal(
        stage("third", estimate=1.0), [stage("last", estimate=40.0, is_essential=True)]
    )


def test_an_early_stage_leaves_time_for_a_later_one_that_is_essential(tmp_path):
    later = stage("later", like="another", estimate=60.0, is_essential=True)
    ends = run([stage("early", estimate=50.0), later], tmp_path / "a.jsonl")
    assert ends["early"]["outcome"] == "skipped"
    assert "60 s are for later stages" in ends["early"]["reason"]
    assert ends["later"]["outcome"] == "done"


def test_an_essential_stage_is_not_skipped_for_later_ones(tmp_path):
    """The earlier answer matters more, and there would be none at all."""
    one, two = (stage(name, like=name, estimate=60.0, is_essential=True) for name in ("one", "two"))
    ends = run([one, two], tmp_path / "a.jsonl")
    assert ends["one"]["outcome"] == "done"


def test_warnings_of_a_stage_are_recorded_once(tmp_path):
    def warn():
        warnings.warn("blocks are not compiled", stacklevel=1)
        warnings.warn("blocks are not compiled", stacklevel=1)  # from another place
        return []

    assert run([stage("warned", warn)], tmp_path / "a.jsonl")["warned"]["warnings"] == ["blocks are not compiled"]


def test_each_result_is_in_the_file_before_the_next_one_is_measured(tmp_path):
    path, seen = tmp_path / "a.jsonl", []

    def measure():
        for number in range(2):
            seen.append(len(read_records(path)))
            yield Result("part", {"number": number})

    run([stage("measured", measure)], path)
    assert seen == [0, 1]


def test_a_file_that_was_cut_off_has_all_its_complete_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    file = RecordFile(path)
    file.append(Record("a stage", "part", {"value": 1}))
    with path.open("a") as cut:
        cut.write('{"stage": "a st')
    assert read_records(path) == [Record("a stage", "part", {"value": 1})]


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        ("missing.jsonl", None, "missing.jsonl does not exist: expected a file that script/gpu-run has written"),
        ("other.jsonl", "a text\n", "other.jsonl is not a file of results"),
        ("other.jsonl", '{"a": 1}\n', "other.jsonl is not a file of results"),
    ],
)
def test_a_file_that_has_no_results_is_refused_in_one_sentence(tmp_path, path, text, sentence):
    if text is not None:
        (tmp_path / path).write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_records(tmp_path / path)


def test_results_are_not_written_over_others_or_into_nowhere(tmp_path):
    RecordFile(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="which exists: expected a new file"):
        RecordFile(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="whose folder does not exist"):
        RecordFile(tmp_path / "nowhere/a.jsonl")
