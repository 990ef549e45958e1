"""Identifiers that are read over a phone: what was misheard is found, what was only dressed otherwise is not minded."""

import base64
import random
from collections.abc import Callable

import pytest

from isthmus.errors import OperatorError
from isthmus.kit import base32
from isthmus.testing.depth import count

VALUE = bytes(range(20))


def test_spelling_is_rfc_4648_base32_without_padding_plus_four_check_characters() -> None:
    for length in range(1, 41):
        value = bytes(range(200, 200 + length))
        plain = base64.b32encode(value).decode().rstrip("=")
        assert base32.spell(value).replace("-", "")[:-4] == plain


def test_groups_have_five_characters_each_but_for_the_last() -> None:
    groups = base32.spell(VALUE).split("-")
    assert [len(group) for group in groups] == [5, 5, 5, 5, 5, 5, 5, 1]


def test_every_value_comes_back_as_it_went() -> None:
    chance = random.Random(1)
    for _ in range(count(push=500, nightly=20_000)):
        value = chance.randbytes(chance.randint(1, 40))
        assert base32.unspell(base32.spell(value)) == value


@pytest.mark.parametrize(
    "dress",
    [str.lower, lambda text: text.replace("-", ""), lambda text: text.replace("-", " "), lambda text: f"  {text}\n"],
)
def test_case_hyphens_and_spaces_do_not_matter(dress: Callable[[str], str]) -> None:
    assert base32.unspell(dress(base32.spell(VALUE))) == VALUE


def test_one_wrong_character_anywhere_is_noticed() -> None:
    spelled = base32.spell(VALUE).replace("-", "")
    for place, right in enumerate(spelled):
        wrong = "B" if right == "A" else "A"
        with pytest.raises(OperatorError, match="mistyped"):
            base32.unspell(spelled[:place] + wrong + spelled[place + 1 :])


def test_two_neighbours_in_the_wrong_order_are_noticed() -> None:
    spelled = base32.spell(VALUE).replace("-", "")
    for place in range(len(spelled) - 1):
        left, right = spelled[place], spelled[place + 1]
        if left != right:
            with pytest.raises(OperatorError):
                base32.unspell(spelled[:place] + right + left + spelled[place + 2 :])


def test_a_lost_or_a_doubled_character_is_noticed() -> None:
    spelled = base32.spell(VALUE).replace("-", "")
    for place in range(len(spelled)):
        for wrong in (spelled[:place] + spelled[place + 1 :], spelled[:place] + spelled[place] + spelled[place:]):
            with pytest.raises(OperatorError):
                base32.unspell(wrong)


@pytest.mark.parametrize("text", ["", "-", "AAAA", "ABC", "0189-!", "ÄÖÜÄÖ-ÄÖÜÄ", "\0" * 36, "A" * 36])
def test_what_is_no_identifier_is_an_operators_error_that_names_what_was_meant(text: str) -> None:
    with pytest.raises(OperatorError, match="Router ID"):
        base32.unspell(text, what="Router ID")
