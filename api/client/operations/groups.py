"""All groups of operations. Generated from the routes by `python -m docs.generate`."""

from api.client.connection import AsyncConnection, Connection
from api.client.operations.analytics import Analytics, AsyncAnalytics
from api.client.operations.executions import AsyncExecutions, Executions
from api.client.operations.keys import AsyncKeys, Keys
from api.client.operations.operations import AsyncOperations, Operations
from api.client.operations.reconcile import AsyncReconcile, Reconcile
from api.client.operations.webhooks import AsyncWebhooks, Webhooks


class Groups:
    """The operations of a client, by group."""

    def __init__(self, connection: Connection) -> None:
        self.analytics = Analytics(connection)
        self.executions = Executions(connection)
        self.keys = Keys(connection)
        self.operations = Operations(connection)
        self.reconcile = Reconcile(connection)
        self.webhooks = Webhooks(connection)


class AsyncGroups:
    """The operations of a client, by group."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.analytics = AsyncAnalytics(connection)
        self.executions = AsyncExecutions(connection)
        self.keys = AsyncKeys(connection)
        self.operations = AsyncOperations(connection)
        self.reconcile = AsyncReconcile(connection)
        self.webhooks = AsyncWebhooks(connection)
