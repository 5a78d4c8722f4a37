-- Where a price, a tariff or what is billed of a host begins or ends, or ever was said to, and where a clock by which a
-- tariff has hours is changed.
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
