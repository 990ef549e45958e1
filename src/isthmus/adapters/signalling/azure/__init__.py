"""`azqueue:` carries notices through Azure Queue Storage: one queue for each mailbox.

`api` imports Azure's library and is itself imported at first use only.
"""

from isthmus.adapters.signalling.azure.provider import AzureQueueProvider

PROVIDER = AzureQueueProvider()
