-- Tenants 0 to :rows - 1 of the platform's old database, with the damage that occurs in one. Of each hundred, the
-- tenants with these last two digits are special; the others are whole. Each tenant has the segments `general` and
-- `extras` and four packages, unless something else is noted.
--
--   can be adopted                                      refused
--   01  no segments and no packages                     50  slug with two hyphens
--   02  no packages                                     51  reserved slug, or one with two hyphens
--   03  no General segment                              52  empty name
--   04  packages without a segment                      53  malformed address
--   05  neither address nor password                    54  commission above 100
--   06  no password                                     55, 56  addresses that differ only in case
--   07  a password, but no address                      57  password hash of another kind
--   08  packages without an order                       58  price below 0
--   09  slugs of segments and packages are refused      59  branding that is not an object
--   10  package in a segment of another tenant          60  public key of another form
--   11  suspended                                       61  key hash of another form
--   12  test tenant                                     62  package without a name
--   13  the address is not verified                     63  slug that begins with a digit
--   14  all packages by time slot, one inactive         64  slug that ends with a hyphen
--   15  names in other scripts, texts with CRLF
--   16  General with its own texts
--   17  branding, and a commission with decimals
--   18  thirty packages
--
-- The secret key of tenant n is sk_live_<slug>_<md5 of 'secret n'>. The passwords are `kitty`, `tulips under a lamp`
-- and `café` (with a combining accent), by n modulo 3. Some hashes have the cost 12, the others 10.

CREATE TEMP TABLE old_tenant AS
SELECT n, n % 100 AS kind, 'c' || lpad(n::text, 24, '0') AS id,
       CASE n % 100
           WHEN 50 THEN 'tenant--' || n
           WHEN 51 THEN coalesce((ARRAY['admin', 'api', 'www', 'demo', 'test', 'widget'])[1 + n / 100], 'studio--' || n)
           WHEN 63 THEN n || '-tenant'
           WHEN 64 THEN 'tenant-' || n || '-'
           ELSE 'tenant-' || n
       END AS slug,
       timestamp '2024-01-01' + n * interval '1 minute' AS created_at
  FROM generate_series(0, :rows - 1) AS n;

INSERT INTO "Tenant"
SELECT id, slug,
       CASE kind WHEN 52 THEN '' WHEN 15 THEN 'Студия Ömer 🎂 ' || n ELSE 'Tenant ' || n END,
       CASE
           WHEN kind IN (5, 7) THEN NULL
           WHEN kind = 53 THEN 'owner ' || n || ' at example.com'
           WHEN kind = 55 THEN 'owner-' || n || '@example.com'
           WHEN kind = 56 THEN 'OWNER-' || n - 1 || '@example.com'
           WHEN kind = 15 THEN 'Юлия-' || n || '@bücher.example'
           ELSE 'owner-' || n || '@example.com'
       END,
       CASE
           WHEN kind IN (5, 6) THEN NULL
           WHEN kind = 57 THEN md5('password ' || n)
           ELSE (ARRAY['$2b$10$abcdefghijklmnopqrstuu78duphgqD579zkOcEbaK24Ut8Ga/11O',
                       '$2a$12$abcdefghijklmnopqrstuu30S.eR6Edz54YZAeCyqpgw/u7kyvdHG',
                       '$2y$10$ABCDEFGHIJKLMNOPQRSTUuGN9WtqNa3wL4igroEuiLAYmTpcndyF6'])[1 + n % 3]
       END,
       CASE kind WHEN 60 THEN 'pk_' || n ELSE 'pk_live_' || slug || '_' || left(md5('public ' || n), 16) END,
       CASE kind WHEN 61 THEN md5('secret ' || n)
                 ELSE encode(sha256(('sk_live_' || slug || '_' || md5('secret ' || n))::bytea), 'hex') END,
       CASE kind WHEN 54 THEN 150 WHEN 17 THEN 12.34 ELSE 10 END,
       CASE kind WHEN 59 THEN '[]'
                 WHEN 17 THEN jsonb_build_object('primaryColor', '#aa3355', 'fonts', jsonb_build_array('Inter', n))
                 ELSE '{}' END,
       kind <> 13, kind <> 11, kind = 12, created_at, created_at + interval '1 day'
  FROM old_tenant;

INSERT INTO "Segment"
SELECT 's' || position || substr(id, 3), id,
       CASE WHEN kind = 9 AND position = 2 THEN '1--extras' ELSE segment.slug END,
       CASE WHEN kind = 16 AND position = 1 THEN 'Weddings' ELSE initcap(segment.slug) END,
       CASE WHEN kind = 16 AND position = 1 THEN 'Your day' ELSE 'All ' || segment.slug END,
       CASE WHEN kind = 15 THEN E'One\r\ntwo' WHEN position = 1 THEN 'Offers of tenant ' || n END,
       position - 1, true, created_at, created_at + interval '2 hours'
  FROM old_tenant
 CROSS JOIN (VALUES (1, 'general'), (2, 'extras')) AS segment (position, slug)
 WHERE kind <> 1 AND (kind <> 3 OR position = 2);

INSERT INTO "Package"
SELECT 'p' || lpad(position::text, 2, '0') || substr(id, 4), id,
       CASE WHEN kind = 9 AND position IN (1, 2) THEN position || '--day' ELSE 'package-' || position END,
       CASE WHEN kind = 62 AND position = 2 THEN '' WHEN kind = 9 AND position IN (1, 2) THEN 'Whole Day'
            ELSE 'Package ' || position END,
       CASE WHEN position % 2 = 1 THEN 'Offer ' || position || ' of tenant ' || n END,
       CASE WHEN kind = 58 AND position = 3 THEN -1 ELSE (position - 1) * 12500 END,
       kind <> 14 OR position > 1,
       CASE
           WHEN kind = 4 THEN NULL
           WHEN kind = 10 AND position = 1 THEN 's1' || lpad((n - 10)::text, 23, '0')
           WHEN kind = 3 OR position = 4 THEN 's2' || substr(id, 3)
           ELSE 's1' || substr(id, 3)
       END,
       CASE WHEN kind <> 8 OR position = 1 THEN position END,
       CASE WHEN kind = 14 OR position = 2 THEN 'TIMESLOT' ELSE 'DATE' END::"BookingType",
       created_at + position * interval '1 second', created_at + interval '3 hours'
  FROM old_tenant
 CROSS JOIN LATERAL generate_series(1, CASE kind WHEN 18 THEN 30 ELSE 4 END) AS position
 WHERE kind NOT IN (1, 2);

DROP TABLE old_tenant;
