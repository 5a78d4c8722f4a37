-- What was used in [since, until) and what it cost, by identity, account and price, under an idle policy:
--     SELECT … FROM cost(policy = 'memory', since = '2026-06-01', until = '2026-07-01')
-- Every parameter is required; times are texts in UTC, or DateTimes.
CREATE OR REPLACE VIEW cost AS
SELECT * EXCEPT bucket_start
FROM priced_usage(policy = {policy:String}, since = {since:String}, until = {until:String}, step = 'all', tz = 'UTC',
    as_of = '2200-01-01')
