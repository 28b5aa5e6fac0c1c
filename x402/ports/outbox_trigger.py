"""The trigger that notes each event of a gateway's payment for those who want to be told.

It runs in the very transaction that writes the event, whoever writes it: a change of state that is durable is told,
and one that was rolled back never is. Where nobody has asked to be told, nothing is noted.
"""

from __future__ import annotations

_SQLITE = (
    """CREATE TRIGGER events_announced AFTER INSERT ON events
WHEN NEW.party = 'gateway' AND EXISTS (SELECT 1 FROM webhooks)
BEGIN INSERT INTO outbox (event) VALUES (NEW.seq); END""",
)
_POSTGRES = (
    """CREATE OR REPLACE FUNCTION announce_event() RETURNS trigger AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM webhooks) THEN INSERT INTO outbox (event) VALUES (NEW.seq); END IF;
    RETURN NULL;
END $$ LANGUAGE plpgsql""",
    """CREATE TRIGGER events_announced AFTER INSERT ON events
FOR EACH ROW WHEN (NEW.party = 'gateway') EXECUTE FUNCTION announce_event()""",
)


def statements(dialect: str) -> tuple[str, ...]:
    """What makes the trigger in a database of this kind."""
    return _SQLITE if dialect == "sqlite" else _POSTGRES
