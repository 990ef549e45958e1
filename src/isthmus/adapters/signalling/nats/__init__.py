"""`nats:` and its kin carry notices through NATS servers, whose clusters span continents.

Core NATS, without streams: a notice is a doorbell and not a record. The protocol is spoken here and not by a library:
it must go through proxies, and to no other host than this site accepted.
"""

from isthmus.adapters.signalling.nats.provider import NatsProvider

PROVIDER = NatsProvider()
