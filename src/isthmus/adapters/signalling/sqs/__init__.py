"""`sqs:` carries notices through Amazon SQS, or through what speaks its protocol: one standard queue for each mailbox.

`api` imports aiobotocore and is itself imported at first use only.
"""

from isthmus.adapters.signalling.sqs.provider import SqsProvider

PROVIDER = SqsProvider()
