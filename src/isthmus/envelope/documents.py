"""Signed documents: what a Router states and other sites verify (docs/protocol/records.md)."""

from isthmus.contract.documents import DocumentKind, SignedDocument
from isthmus.envelope.identity import Identity, RouterId, verify
from isthmus.errors import Untrusted


def sign_document(identity: Identity, kind: DocumentKind, payload: bytes) -> SignedDocument:
    """Return `payload`, which is kept to the byte, signed under its kind."""
    signature = identity.sign(kind.value.encode(), payload)
    return SignedDocument(kind=kind, router_id=identity.router_id, payload=payload, signature=signature)


def open_document(document: SignedDocument, public: bytes, kind: DocumentKind) -> bytes:
    """Return the payload of a document that must be of `kind` and signed by `public`. Raises Untrusted otherwise."""
    if document.kind is not kind:
        raise Untrusted(f"a document of kind {document.kind} came where {kind} was asked for")
    if document.router_id != RouterId.from_public(public):
        raise Untrusted("a document is signed by another Router than the one that was accepted")
    verify(public, kind.value.encode(), document.payload, document.signature)
    return document.payload
