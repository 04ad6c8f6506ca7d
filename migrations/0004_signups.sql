-- Whether a tenant came by a sign-up, and so has an owner: where the owner is missing then, that is damage, and not a
-- tenant that an administrator made. False for rows that are typed in without it.

ALTER TABLE tenants ADD COLUMN is_signup boolean NOT NULL DEFAULT false;
UPDATE tenants SET is_signup = true WHERE EXISTS (SELECT FROM owners WHERE owners.tenant_id = tenants.id);
