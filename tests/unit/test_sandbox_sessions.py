"""What is decided about sessions and their cells."""

import pytest
from tandem_core.sandbox.messages import Limits, Verdict
from tandem_core.sandbox.sessions import CellOutput, ErrorOutput, ResultOutput, SessionRequest, StreamOutput
from tandem_sandbox.run_watch import Moment, Stop, ignores_interrupt
from tandem_sandbox.sessions.dialogue import CellOutcome, join_streams
from tandem_sandbox.sessions.session import build_result
from tandem_sandbox.sessions.words import Done, Shown, parse_word

LIMITS = Limits(cpu_seconds=1)
ERROR = ErrorOutput(ename="ValueError", evalue="no")


def outcome(
    *, done: bool | None, stop: Stop | None = None, full: bool = False, shown: CellOutput | None = None
) -> CellOutcome:
    return CellOutcome(
        outputs=[shown] if shown else [],
        done=None if done is None else Done(kind="done", cell=1, ok=done, execution_count=7),
        stop=stop,
        out_of_memory=full,
        cpu_seconds=0.5,
        wall_seconds=0.5,
        memory_bytes=1,
    )


@pytest.mark.parametrize(
    ("happened", "over", "verdict", "words"),
    [
        (outcome(done=True), "", Verdict.OK, ""),
        (outcome(done=False, shown=ERROR), "", Verdict.RE, "it raised ValueError: no"),
        (outcome(done=False, stop=Stop.CPU, shown=ERROR), "", Verdict.TLE, "more than 1 s of processor time"),
        (outcome(done=True, stop=Stop.OUTPUT), "", Verdict.OLE, "it wrote more than"),
        (
            outcome(done=None, full=True),
            "its kernel has died",
            Verdict.MLE,
            "the session is over (its kernel has died)",
        ),
        (outcome(done=True, full=True), "", Verdict.MLE, "memory"),  # a process that the cell started
        (outcome(done=None), "its kernel has died", Verdict.RE, "the session is over"),
        (outcome(done=None, stop=Stop.CPU), "it went on", Verdict.TLE, "make another one"),
        (outcome(done=False, stop=Stop.STARVED), "", Verdict.IE, "starved"),
    ],
)
def test_a_cell_has_the_verdict_of_what_happened(
    happened: CellOutcome, over: str, verdict: Verdict, words: str
) -> None:
    result = build_result(happened, LIMITS, over)
    assert (result.verdict, result.alive) == (verdict, not over)
    assert words in result.detail
    assert not result.detail.startswith(";")


def test_an_interrupted_cell_has_three_seconds_of_processor_time_to_end() -> None:
    interrupted = Moment(wall_seconds=5.0, cpu_seconds=2.0)
    assert not ignores_interrupt(interrupted, Moment(wall_seconds=19.0, cpu_seconds=4.9))
    assert ignores_interrupt(interrupted, Moment(wall_seconds=9.0, cpu_seconds=5.0))
    assert ignores_interrupt(interrupted, Moment(wall_seconds=20.0, cpu_seconds=2.0))


def test_neighbouring_texts_of_a_stream_are_one_output() -> None:
    def text(name: str, words: str) -> StreamOutput:
        return StreamOutput.model_validate({"name": name, "text": words})

    value = ResultOutput(execution_count=1, data={"text/plain": "1"})
    given = [text("stdout", "a"), text("stdout", "b"), text("stderr", "c"), value, value, text("stdout", "d")]
    assert join_streams(given) == [text("stdout", "ab"), text("stderr", "c"), value, value, text("stdout", "d")]


def test_only_the_drivers_words_are_words() -> None:
    said = b'{"kind": "output", "cell": 1, "output": {"output_type": "stream", "name": "stdout", "text": "x"}}'
    assert isinstance(parse_word(said), Shown)
    for forged in (b"", b"rubbish", b"{}", b'{"kind": "run"}', b'{"kind": "ready", "more": 1}', b"\xff"):
        assert parse_word(forged) is None


def test_files_of_a_session_stay_below_its_folder() -> None:
    with pytest.raises(ValueError, match="not a path below"):
        SessionRequest.model_validate({"files": {"../x": {"text": ""}}})
