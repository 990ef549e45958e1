"""Azure's containers, made. It imports azure-storage-blob, and is itself imported at first use only."""

from typing import Any, Final

from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError, ServiceRequestError
from azure.storage.blob.aio import ContainerClient

from isthmus.adapters.blobstore.trouble import Service
from isthmus.ports.provider import Way

_CONNECT_SECONDS: Final = 5


async def make_container(
    service: Service, endpoint: str, account: str, container: str, account_key: str, way: Way
) -> bool:
    """Make a container that is open to nobody; return whether there was none. Raises ProviderTrouble."""
    credential = {"account_name": account, "account_key": account_key}
    options: dict[str, Any] = {"proxies": {"https": way.proxy, "http": way.proxy}} if way.proxy else {}
    try:
        async with ContainerClient(
            endpoint,
            container,
            credential=credential,
            retry_total=1,
            connection_timeout=_CONNECT_SECONDS,
            connection_verify=str(way.ca) if way.ca is not None else True,
            **options,
        ) as client:
            await client.create_container()
    except ResourceExistsError:
        return False
    except HttpResponseError as error:
        code = str(getattr(error, "error_code", None) or "")
        raise service.refusal("make a container", error.status_code or 0, code) from None
    except ServiceRequestError:
        raise service.unreachable() from None
    except AzureError:
        raise service.unreachable("the connection broke") from None
    return True
