-- The view cost with the prices known at a time: of what was recorded later nothing is seen.
--     SELECT … FROM cost_as_of(policy = 'memory', since = '2026-06-01', until = '2026-07-01', as_of = '2026-07-02')
CREATE OR REPLACE VIEW cost_as_of AS
SELECT * EXCEPT bucket_start
FROM priced_usage(policy = {policy:String}, since = {since:String}, until = {until:String}, step = 'all', tz = 'UTC',
    as_of = {as_of:String})
