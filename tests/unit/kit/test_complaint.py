"""A log that can be read while something is away."""

from isthmus.kit.complaint import Complaint


def test_a_trouble_is_said_when_it_begins_when_its_reason_changes_and_once_a_minute() -> None:
    complaint = Complaint()
    said = [now for now in range(200) if complaint.is_news("refused" if now < 100 else "timed out", now)]
    assert said == [0, 60, 100, 160]


def test_a_trouble_that_is_over_is_said_at_once_when_it_begins_again() -> None:
    complaint = Complaint()
    assert not complaint.over()
    assert complaint.is_news("refused", 1)
    assert complaint.over()
    assert not complaint.over()
    assert complaint.is_news("refused", 2)
