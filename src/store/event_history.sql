-- Begins a new history of events if the current one has transaction ids from the future: the database was restored from
-- the dump of another cluster. The events that follow have lower ids, but come later. It runs after the migrations,
-- each time.
DO $$
DECLARE
    current_number smallint := (SELECT max(number) FROM event_histories);
    latest         xid8     := greatest(
        (SELECT xid FROM events WHERE history = current_number ORDER BY xid DESC LIMIT 1),
        (SELECT deleted_through FROM event_histories WHERE number = current_number));
BEGIN
    IF latest >= pg_snapshot_xmax(pg_current_snapshot()) THEN
        INSERT INTO event_histories (number) VALUES (current_number + 1);
        EXECUTE format('ALTER TABLE events ALTER COLUMN history SET DEFAULT %s', current_number + 1);
    END IF;
END
$$;
