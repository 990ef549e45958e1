"""PS3.8 table 9-10, cell by cell: rows are triggers, columns are states. A missing cell is an error of the caller.

Where an action leaves a choice of state, the first is the usual one: AE-6 goes to Sta13 if it refuses the request
itself, AR-8 to Sta10 on the acceptor's side.
"""

from collections.abc import Mapping
from typing import Final

from isthmus.association.states import Action, State, Trigger

_STATES: Final = {state.value: state for state in State}
_ACTIONS: Final = {action.value: action for action in Action}

_ROWS: Final[Mapping[Trigger, str]] = {
    Trigger.EVT1_ASSOCIATE_REQUEST: "Sta1:AE-1",
    Trigger.EVT2_CONNECTION_CONFIRMED: "Sta4:AE-2",
    Trigger.EVT3_AC_RECEIVED: (
        "Sta2:AA-1 Sta3:AA-8 Sta5:AE-3 Sta6:AA-8 Sta7:AA-8 Sta8:AA-8 Sta9:AA-8 Sta10:AA-8 Sta11:AA-8 Sta12:AA-8"
        " Sta13:AA-6"
    ),
    Trigger.EVT4_RJ_RECEIVED: (
        "Sta2:AA-1 Sta3:AA-8 Sta5:AE-4 Sta6:AA-8 Sta7:AA-8 Sta8:AA-8 Sta9:AA-8 Sta10:AA-8 Sta11:AA-8 Sta12:AA-8"
        " Sta13:AA-6"
    ),
    Trigger.EVT5_CONNECTION_INDICATED: "Sta1:AE-5",
    Trigger.EVT6_RQ_RECEIVED: (
        "Sta2:AE-6 Sta3:AA-8 Sta5:AA-8 Sta6:AA-8 Sta7:AA-8 Sta8:AA-8 Sta9:AA-8 Sta10:AA-8 Sta11:AA-8 Sta12:AA-8"
        " Sta13:AA-7"
    ),
    Trigger.EVT7_ACCEPT: "Sta3:AE-7",
    Trigger.EVT8_REJECT: "Sta3:AE-8",
    Trigger.EVT9_SEND_DATA: "Sta6:DT-1 Sta8:AR-7",
    Trigger.EVT10_DATA_RECEIVED: (
        "Sta2:AA-1 Sta3:AA-8 Sta5:AA-8 Sta6:DT-2 Sta7:AR-6 Sta8:AA-8 Sta9:AA-8 Sta10:AA-8 Sta11:AA-8 Sta12:AA-8"
        " Sta13:AA-6"
    ),
    Trigger.EVT11_RELEASE_REQUEST: "Sta6:AR-1",
    Trigger.EVT12_RELEASE_RQ_RECEIVED: (
        "Sta2:AA-1 Sta3:AA-8 Sta5:AA-8 Sta6:AR-2 Sta7:AR-8 Sta8:AA-8 Sta9:AA-8 Sta10:AA-8 Sta11:AA-8 Sta12:AA-8"
        " Sta13:AA-6"
    ),
    Trigger.EVT13_RELEASE_RP_RECEIVED: (
        "Sta2:AA-1 Sta3:AA-8 Sta5:AA-8 Sta6:AA-8 Sta7:AR-3 Sta8:AA-8 Sta9:AA-8 Sta10:AR-10 Sta11:AR-3 Sta12:AA-8"
        " Sta13:AA-6"
    ),
    Trigger.EVT14_RELEASE_RESPONSE: "Sta8:AR-4 Sta9:AR-9 Sta12:AR-4",
    Trigger.EVT15_ABORT_REQUEST: (
        "Sta3:AA-1 Sta4:AA-2 Sta5:AA-1 Sta6:AA-1 Sta7:AA-1 Sta8:AA-1 Sta9:AA-1 Sta10:AA-1 Sta11:AA-1 Sta12:AA-1"
    ),
    Trigger.EVT16_ABORT_RECEIVED: (
        "Sta2:AA-2 Sta3:AA-3 Sta5:AA-3 Sta6:AA-3 Sta7:AA-3 Sta8:AA-3 Sta9:AA-3 Sta10:AA-3 Sta11:AA-3 Sta12:AA-3"
        " Sta13:AA-2"
    ),
    Trigger.EVT17_CONNECTION_CLOSED: (
        "Sta2:AA-5 Sta3:AA-4 Sta4:AA-4 Sta5:AA-4 Sta6:AA-4 Sta7:AA-4 Sta8:AA-4 Sta9:AA-4 Sta10:AA-4 Sta11:AA-4"
        " Sta12:AA-4 Sta13:AR-5"
    ),
    Trigger.EVT18_ARTIM_EXPIRED: "Sta2:AA-2 Sta13:AA-2",
    Trigger.EVT19_INVALID_PDU: (
        "Sta2:AA-1 Sta3:AA-8 Sta5:AA-8 Sta6:AA-8 Sta7:AA-8 Sta8:AA-8 Sta9:AA-8 Sta10:AA-8 Sta11:AA-8 Sta12:AA-8"
        " Sta13:AA-7"
    ),
}

TABLE: Final[Mapping[tuple[State, Trigger], Action]] = {
    (_STATES[state], trigger): _ACTIONS[action]
    for trigger, row in _ROWS.items()
    for state, action in (cell.split(":") for cell in row.split())
}

NEXT: Final[Mapping[Action, tuple[State, ...]]] = {
    Action.AE_1: (State.STA4_AWAITING_CONNECTION,),
    Action.AE_2: (State.STA5_AWAITING_AC_OR_RJ,),
    Action.AE_3: (State.STA6_ESTABLISHED,),
    Action.AE_4: (State.STA1_IDLE,),
    Action.AE_5: (State.STA2_AWAITING_RQ,),
    Action.AE_6: (State.STA3_AWAITING_LOCAL_RESPONSE, State.STA13_AWAITING_CLOSE),
    Action.AE_7: (State.STA6_ESTABLISHED,),
    Action.AE_8: (State.STA13_AWAITING_CLOSE,),
    Action.DT_1: (State.STA6_ESTABLISHED,),
    Action.DT_2: (State.STA6_ESTABLISHED,),
    Action.AR_1: (State.STA7_AWAITING_RELEASE_RP,),
    Action.AR_2: (State.STA8_AWAITING_LOCAL_RELEASE,),
    Action.AR_3: (State.STA1_IDLE,),
    Action.AR_4: (State.STA13_AWAITING_CLOSE,),
    Action.AR_5: (State.STA1_IDLE,),
    Action.AR_6: (State.STA7_AWAITING_RELEASE_RP,),
    Action.AR_7: (State.STA8_AWAITING_LOCAL_RELEASE,),
    Action.AR_8: (
        State.STA9_COLLISION_REQUESTOR_AWAITING_LOCAL_RELEASE,
        State.STA10_COLLISION_ACCEPTOR_AWAITING_RELEASE_RP,
    ),
    Action.AR_9: (State.STA11_COLLISION_REQUESTOR_AWAITING_RELEASE_RP,),
    Action.AR_10: (State.STA12_COLLISION_ACCEPTOR_AWAITING_LOCAL_RELEASE,),
    Action.AA_1: (State.STA13_AWAITING_CLOSE,),
    Action.AA_2: (State.STA1_IDLE,),
    Action.AA_3: (State.STA1_IDLE,),
    Action.AA_4: (State.STA1_IDLE,),
    Action.AA_5: (State.STA1_IDLE,),
    Action.AA_6: (State.STA13_AWAITING_CLOSE,),
    Action.AA_7: (State.STA13_AWAITING_CLOSE,),
    Action.AA_8: (State.STA13_AWAITING_CLOSE,),
}
"""The state after an action."""
