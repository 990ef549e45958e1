"""The UIDs that routing and our own messages need (PS3.6 table A-1); Storage classes are in `storage_classes`."""

from typing import Final

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
"""The only application context name there is (PS3.7 annex A.2.1)."""

IMPLEMENTATION_CLASS_UID: Final = "2.25.128507908648083574968342244667428247675"
"""Ours; a UID made from a UUID needs no registered root (PS3.5 annex B.2)."""
IMPLEMENTATION_VERSION_NAME: Final = "ISTHMUS"
"""Ours; at most 16 characters."""

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"

VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT_PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
MODALITY_WORKLIST_FIND: Final = "1.2.840.10008.5.1.4.31"

PATIENT_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"

QUERY_CLASSES: Final = frozenset(
    {
        PATIENT_ROOT_FIND,
        STUDY_ROOT_FIND,
        "1.2.840.10008.5.1.4.1.2.3.1",  # patient/study only (retired)
        "1.2.840.10008.5.1.4.1.1.200.4",  # protocol approval
        "1.2.840.10008.5.1.4.1.1.201.2",  # inventory
        "1.2.840.10008.5.1.4.1.1.201.6",  # repository query
        "1.2.840.10008.5.1.4.20.1",  # defined procedure protocol
        "1.2.840.10008.5.1.4.37.1",  # general relevant patient information
        "1.2.840.10008.5.1.4.37.2",  # breast imaging relevant patient information
        "1.2.840.10008.5.1.4.37.3",  # cardiac relevant patient information
        "1.2.840.10008.5.1.4.38.2",  # hanging protocol
        "1.2.840.10008.5.1.4.39.2",  # color palette
        "1.2.840.10008.5.1.4.43.2",  # generic implant template
        "1.2.840.10008.5.1.4.44.2",  # implant assembly template
        "1.2.840.10008.5.1.4.45.2",  # implant template group
    }
)
"""C-FIND over what an archive keeps."""

MOVE_CLASSES: Final = frozenset(
    {
        PATIENT_ROOT_MOVE,
        STUDY_ROOT_MOVE,
        "1.2.840.10008.5.1.4.1.2.3.2",  # patient/study only (retired)
        "1.2.840.10008.5.1.4.1.2.4.2",  # composite instance root
        "1.2.840.10008.5.1.4.1.1.200.5",  # protocol approval
        "1.2.840.10008.5.1.4.1.1.201.3",  # inventory
        "1.2.840.10008.5.1.4.20.2",  # defined procedure protocol
        "1.2.840.10008.5.1.4.38.3",  # hanging protocol
        "1.2.840.10008.5.1.4.39.3",  # color palette
        "1.2.840.10008.5.1.4.43.3",  # generic implant template
        "1.2.840.10008.5.1.4.44.3",  # implant assembly template
        "1.2.840.10008.5.1.4.45.3",  # implant template group
    }
)
"""C-MOVE: the archive opens associations to the destination."""

GET_CLASSES: Final = frozenset(
    {
        PATIENT_ROOT_GET,
        STUDY_ROOT_GET,
        "1.2.840.10008.5.1.4.1.2.3.3",  # patient/study only (retired)
        "1.2.840.10008.5.1.4.1.2.4.3",  # composite instance root
        "1.2.840.10008.5.1.4.1.2.5.3",  # composite instance without bulk data
        "1.2.840.10008.5.1.4.1.1.200.6",  # protocol approval
        "1.2.840.10008.5.1.4.1.1.201.4",  # inventory
        "1.2.840.10008.5.1.4.20.3",  # defined procedure protocol
        "1.2.840.10008.5.1.4.38.4",  # hanging protocol
        "1.2.840.10008.5.1.4.39.4",  # color palette
        "1.2.840.10008.5.1.4.43.4",  # generic implant template
        "1.2.840.10008.5.1.4.44.4",  # implant assembly template
        "1.2.840.10008.5.1.4.45.4",  # implant template group
    }
)
"""C-GET: the archive stores on the same association, to the requestor."""

MPPS_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.3.1.2.3.3",  # modality performed procedure step
        "1.2.840.10008.3.1.2.3.4",  # retrieve
        "1.2.840.10008.3.1.2.3.5",  # notification
    }
)
"""Modality Performed Procedure Step."""

PRINT_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.5.1.1.1",  # basic film session
        "1.2.840.10008.5.1.1.2",  # basic film box
        "1.2.840.10008.5.1.1.4",  # basic grayscale image box
        "1.2.840.10008.5.1.1.4.1",  # basic color image box
        "1.2.840.10008.5.1.1.9",  # basic grayscale print management meta
        "1.2.840.10008.5.1.1.14",  # print job
        "1.2.840.10008.5.1.1.15",  # basic annotation box
        "1.2.840.10008.5.1.1.16",  # printer
        "1.2.840.10008.5.1.1.16.376",  # printer configuration retrieval
        "1.2.840.10008.5.1.1.18",  # basic color print management meta
        "1.2.840.10008.5.1.1.23",  # presentation LUT
    }
)
"""Print management."""
