"""What Alembic runs to migrate: always on the connection, and in the transaction, that `migrate` has opened."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
