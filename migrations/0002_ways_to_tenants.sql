-- Ways to tenants that the first callers did not need: all of them in the order of their creation, page by page, and
-- those that were deleted, for whoever removes them for good.

CREATE INDEX tenants_created_at_id_idx ON tenants (created_at, id);
CREATE INDEX tenants_deleted_at_idx ON tenants (deleted_at) WHERE deleted_at IS NOT NULL;
