"""The transition table against another transcription of PS3.8 table 9-10, cell by cell."""

import re
from itertools import product

import pytest
from pynetdicom import fsm

from isthmus.association.states import Action, State, Trigger
from isthmus.association.table import NEXT, TABLE


@pytest.mark.parametrize(("state", "trigger"), list(product(State, Trigger)), ids=lambda one: str(one.value))
def test_every_cell_is_that_of_another_transcription(state: State, trigger: Trigger) -> None:
    expected = fsm.TRANSITION_TABLE.get((trigger.value, state.value))
    action = TABLE.get((state, trigger))
    assert (action.value if action else None) == expected


def test_the_table_has_its_123_cells() -> None:
    assert len(TABLE) == len(fsm.TRANSITION_TABLE) == 123


@pytest.mark.parametrize("action", Action, ids=lambda action: str(action.value))
def test_every_action_leads_where_another_transcription_says(action: Action) -> None:
    then = fsm.ACTIONS[action.value][2]
    assert {state.value for state in NEXT[action]} == ({then} if isinstance(then, str) else set(then))


def test_names_carry_the_codes_of_the_standard() -> None:
    for member in (*State, *Trigger):
        assert member.name.startswith(member.value.upper() + "_")
    for action in Action:
        assert re.fullmatch(r"(AE|DT|AR|AA)-\d+", action.value)
