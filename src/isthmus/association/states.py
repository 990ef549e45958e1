"""States, triggers and actions of the upper layer state machine (PS3.8 tables 9-1 to 9-9), with the standard's codes.

Whatever changes the state of an association lives in this room, and each side of it is the *requestor* or the
*acceptor* of one TCP connection towards one device, never of the relayed association as a whole.
"""

from enum import Enum


class Role(Enum):
    """Which side of the connection we are."""

    REQUESTOR = "requestor"
    ACCEPTOR = "acceptor"


class State(Enum):
    """PS3.8 tables 9-1 to 9-5."""

    STA1_IDLE = "Sta1"
    STA2_AWAITING_RQ = "Sta2"
    STA3_AWAITING_LOCAL_RESPONSE = "Sta3"
    STA4_AWAITING_CONNECTION = "Sta4"
    STA5_AWAITING_AC_OR_RJ = "Sta5"
    STA6_ESTABLISHED = "Sta6"
    STA7_AWAITING_RELEASE_RP = "Sta7"
    STA8_AWAITING_LOCAL_RELEASE = "Sta8"
    STA9_COLLISION_REQUESTOR_AWAITING_LOCAL_RELEASE = "Sta9"
    STA10_COLLISION_ACCEPTOR_AWAITING_RELEASE_RP = "Sta10"
    STA11_COLLISION_REQUESTOR_AWAITING_RELEASE_RP = "Sta11"
    STA12_COLLISION_ACCEPTOR_AWAITING_LOCAL_RELEASE = "Sta12"
    STA13_AWAITING_CLOSE = "Sta13"


class Trigger(Enum):
    """What happens: the events of PS3.8 table 9-10's first column."""

    EVT1_ASSOCIATE_REQUEST = "Evt1"
    EVT2_CONNECTION_CONFIRMED = "Evt2"
    EVT3_AC_RECEIVED = "Evt3"
    EVT4_RJ_RECEIVED = "Evt4"
    EVT5_CONNECTION_INDICATED = "Evt5"
    EVT6_RQ_RECEIVED = "Evt6"
    EVT7_ACCEPT = "Evt7"
    EVT8_REJECT = "Evt8"
    EVT9_SEND_DATA = "Evt9"
    EVT10_DATA_RECEIVED = "Evt10"
    EVT11_RELEASE_REQUEST = "Evt11"
    EVT12_RELEASE_RQ_RECEIVED = "Evt12"
    EVT13_RELEASE_RP_RECEIVED = "Evt13"
    EVT14_RELEASE_RESPONSE = "Evt14"
    EVT15_ABORT_REQUEST = "Evt15"
    EVT16_ABORT_RECEIVED = "Evt16"
    EVT17_CONNECTION_CLOSED = "Evt17"
    EVT18_ARTIM_EXPIRED = "Evt18"
    EVT19_INVALID_PDU = "Evt19"


class Action(Enum):
    """What is done: PS3.8 tables 9-6 to 9-9."""

    AE_1 = "AE-1"
    AE_2 = "AE-2"
    AE_3 = "AE-3"
    AE_4 = "AE-4"
    AE_5 = "AE-5"
    AE_6 = "AE-6"
    AE_7 = "AE-7"
    AE_8 = "AE-8"
    DT_1 = "DT-1"
    DT_2 = "DT-2"
    AR_1 = "AR-1"
    AR_2 = "AR-2"
    AR_3 = "AR-3"
    AR_4 = "AR-4"
    AR_5 = "AR-5"
    AR_6 = "AR-6"
    AR_7 = "AR-7"
    AR_8 = "AR-8"
    AR_9 = "AR-9"
    AR_10 = "AR-10"
    AA_1 = "AA-1"
    AA_2 = "AA-2"
    AA_3 = "AA-3"
    AA_4 = "AA-4"
    AA_5 = "AA-5"
    AA_6 = "AA-6"
    AA_7 = "AA-7"
    AA_8 = "AA-8"
