import io

from isthmus.demo.progress import Progress
from isthmus.errors import OperatorError


def test_a_step_is_named_before_it_runs_and_judged_after() -> None:
    out = io.StringIO()
    seen: list[str] = []

    def action() -> str:
        seen.append(out.getvalue())
        return "it answered"

    assert Progress(out).step("C-ECHO", action)
    assert seen == ["  C-ECHO ... "]
    assert out.getvalue().startswith("  C-ECHO ... ok, 0.0")
    assert out.getvalue().endswith(" s: it answered\n")


def test_a_step_that_fails_is_told_with_its_reason_and_the_next_one_runs() -> None:
    out = io.StringIO()
    progress = Progress(out)

    def fail() -> str:
        raise OperatorError("nobody there")

    assert not progress.step("first", fail)
    assert progress.step("second", lambda: "")
    assert "first ... FAILED" in out.getvalue()
    assert "nobody there" in out.getvalue()
    assert "second ... ok" in out.getvalue()
    assert (progress.failed, progress.done) == (["first"], 2)


def test_a_fault_of_the_demonstration_counts_as_a_failed_step_too() -> None:
    out = io.StringIO()
    progress = Progress(out)
    progress.step("first", lambda: str(1 // 0))
    assert progress.failed == ["first"]
    assert "ZeroDivisionError" in out.getvalue()
