"""`nats:` and its kin carry notices through NATS servers, whose clusters span continents.

Core NATS, without streams: a notice is a doorbell and not a record. The protocol is spoken here and not by a library:
it must go through proxies, to no other host than this site accepted, and wait for whoever reads slowly.
"""

from isthmus.adapters.signalling.nats.provider import NatsProvider

PROVIDER = NatsProvider()
