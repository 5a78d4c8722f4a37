-- The view cost by hour, day, week (from Monday) or month of the calendar of a time zone. bucket_start is where the bucket
-- begins; of the first and the last one only what lies in the span is counted.
--     SELECT … FROM cost_over_time(policy = 'memory', since = '2026-06-01', until = '2026-07-01', step = 'day',
--         tz = 'Europe/Berlin')
CREATE OR REPLACE VIEW cost_over_time AS
SELECT *
FROM priced_usage(policy = {policy:String}, since = {since:String}, until = {until:String}, step = {step:String},
    tz = {tz:String}, as_of = '2200-01-01')
