-- The times at which a price, a tariff or the billing of a host begins or ends, or was ever declared to, and at which
-- a clock changes that the hours of a tariff follow.
CREATE OR REPLACE VIEW price_edge AS
SELECT DISTINCT edge
FROM
(
    SELECT arrayJoin([valid_from, valid_to]) AS edge FROM price_history
    UNION ALL
    SELECT arrayJoin([valid_from, valid_to]) AS edge FROM tariff
    UNION ALL
    SELECT arrayJoin([billed_from, billed_to]) AS edge FROM billed_host
    UNION ALL
    SELECT toDateTime(arrayJoin(offset_from), 'UTC') AS edge FROM tariff
)
