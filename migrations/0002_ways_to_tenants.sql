-- Ways to tenants that the first callers did not need: all of them in the order of their creation, page by page, and
-- those that were deleted, for whoever removes them for good.
--
-- And owners by their address alike in every database: lower() hangs on the locale, in a Turkish one even for an I. What
-- is beyond ASCII comes here in lower case already.

CREATE INDEX tenants_created_at_id_idx ON tenants (created_at, id);
CREATE INDEX tenants_deleted_at_idx ON tenants (deleted_at) WHERE deleted_at IS NOT NULL;
DROP INDEX owners_email_key;
CREATE UNIQUE INDEX owners_email_key ON owners (lower(email COLLATE "C"));
