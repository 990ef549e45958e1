"""What the Bridge and people know of SQS: its keys, what of them is lent, what is made."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from isthmus.adapters.signalling.sqs.place import Place
from isthmus.adapters.signalling.sqs.service import SqsSignalling, make_queue, open_caller
from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit.names import HostPort
from isthmus.ports.provider import LOAN_SECONDS, Loan, Secret, Surroundings, Way
from isthmus.ports.signalling import Signalling

_LEND_SECONDS: Final = 20.0
_LONGEST_NAME: Final = 32  # of a federated user
_CHECKED: Final = "setup"
_FOREIGN: Final = "setup-other"


class SqsProvider:
    """Amazon SQS and its like (`isthmus.ports.provider.SignallingProvider`)."""

    title = "Amazon SQS"
    tried = "moto (a simulator): signatures and permissions were not tried"
    secrets: Sequence[Secret] = (
        Secret("access_key_id", "access key of a user; left out, the Bridge's own identity at AWS", required=False),
        Secret("secret_access_key", "that key's secret half", required=False),
        Secret("role", "ARN of a role to assume for each Router; needed where no user's key is given", required=False),
    )

    def hosts(self, url: str) -> list[HostPort]:
        """Return SQS's host in that region. Raises OperatorError."""
        return [Place.parse(url).host]

    def open(self, url: str, surroundings: Surroundings) -> Signalling:
        """Return the service. Raises OperatorError if the URL is none of SQS, or aiobotocore is not installed."""
        return SqsSignalling(Place.parse(url), surroundings.keys, surroundings.way, surroundings.meter)

    async def lend(self, url: str, secrets: Mapping[str, str], router_id: str, way: Way) -> Loan:
        """Make the Router's queue, and return keys to receive from it alone and to send to all of the namespace."""
        place = Place.parse(url)
        keys = _own_keys(secrets)
        sqs = await open_caller("sqs", place, keys, way)
        sts = await open_caller("sts", place, keys, way)
        try:
            async with asyncio.timeout(_LEND_SECONDS):
                account = await make_queue(sqs, place, router_id)
                allowed = json.dumps(policy(place, account, router_id), separators=(",", ":"))
                name, seconds = router_id[:_LONGEST_NAME], int(LOAN_SECONDS)
                if role := secrets.get("role"):
                    answer = await sts.call(
                        "assume_role", RoleArn=role, RoleSessionName=name, Policy=allowed, DurationSeconds=seconds
                    )
                else:
                    answer = await sts.call("get_federation_token", Name=name, Policy=allowed, DurationSeconds=seconds)
        except TimeoutError as error:
            raise ProviderTrouble("AWS did not lend keys in time", retry=Retry.LATER) from error
        finally:
            await sqs.close()
            await sts.close()
        lent = answer["Credentials"]
        expiration: datetime = lent["Expiration"]
        fields = {
            "access_key_id": lent["AccessKeyId"],
            "secret_access_key": lent["SecretAccessKey"],
            "session_token": lent["SessionToken"],
            "account": account,
        }
        return Loan(fields, expiration.timestamp())

    async def set_up(self, url: str, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
        """Do with the keys what lending and Routers do, and see whether a Router is kept from another's mailbox.

        Notices go after two minutes whatever `keep_days` says. Raises ProviderTrouble or OperatorError.
        """
        del keep_days
        place = Place.parse(url)
        loan = await self.lend(url, secrets, _CHECKED, way)
        said = [
            f"made the queue {place.queue(_CHECKED)} for trials; each Router's is made when it is lent keys",
            f"lent keys for {LOAN_SECONDS / 60:.0f} minutes",
        ]
        await self.lend(url, secrets, _FOREIGN, way)
        router = await open_caller("sqs", place, loan, way)
        account = loan.fields["account"]
        own, foreign = (place.queue_url(account, mailbox) for mailbox in (_CHECKED, _FOREIGN))
        try:
            for url_to in (own, foreign):
                await router.call(
                    "send_message_batch", QueueUrl=url_to, Entries=[{"Id": "0", "MessageBody": "dHJpZWQ="}]
                )
            said.append("with lent keys a Router can send to every mailbox")
            await router.call("receive_message", QueueUrl=own, WaitTimeSeconds=1, VisibilityTimeout=0)
            said.append("with lent keys a Router can receive at its own mailbox")
            try:
                await router.call("receive_message", QueueUrl=foreign, VisibilityTimeout=0)
            except ProviderTrouble as trouble:
                if trouble.retry is not Retry.NEVER:
                    raise
                said.append("with lent keys a Router cannot receive at another's mailbox")
            else:
                said.append("this service heeds no policies: any Router can receive, and lose, another's notices")
        finally:
            await router.close()
        return said


def _own_keys(secrets: Mapping[str, str]) -> Loan | None:
    """Return the operator's keys, or None for the Bridge's own identity. Raises ProviderTrouble."""
    fields = {name: secrets[name] for name in ("access_key_id", "secret_access_key") if secrets.get(name)}
    if len(fields) == 2:
        return Loan(fields)
    if fields or not secrets.get("role"):
        raise ProviderTrouble(
            "there are no keys for SQS",
            retry=Retry.NEVER,
            hint="give access_key_id and secret_access_key; or, where the Bridge has an identity at AWS, role",
        )
    return None


def policy(place: Place, account: str, mailbox: str) -> dict[str, object]:
    """Return what a Router may do, in IAM's words; batches need no other permission than single messages."""
    receive = ["sqs:ReceiveMessage", "sqs:DeleteMessage"]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": receive, "Resource": place.queue_arn(account, mailbox)},
            {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": place.queue_arn(account, "*")},
        ],
    }
