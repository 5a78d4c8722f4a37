-- Every version of every tariff, and from when until when it was the known one: until the tariff was added again.
-- week_hours: when it holds, in hours since Thursday, 0:00, in its time zone (Unix time began on a Thursday). The days
-- are those on which it begins: over midnight it holds into the next day.
-- has_hours: it does not hold at all times; has_quarters: its hours may also begin within an hour of UTC.
CREATE OR REPLACE VIEW tariff_book AS
SELECT
    * EXCEPT (recorded_at, version, deleted),
    arrayFilter(
        hour -> (hour + 24 - from_hour) % 24 <= (to_hour + 23 - from_hour) % 24
            AND has(days, (intDiv(hour + 168 - (hour + 24 - from_hour) % 24, 24) + 3) % 7 + 1),
        range(168)) AS week_hours,
    from_hour != 0 OR to_hour != 24 OR length(days) != 7 AS has_hours,
    has_hours AND arrayExists(ahead_s -> ahead_s % 3600 != 0, offset_s) AS has_quarters
FROM
(
    SELECT
        *,
        recorded_at AS known_from,
        leadInFrame(recorded_at, 1, toDateTime64('9999-12-31 23:59:59.999', 3, 'UTC')) OVER (
            PARTITION BY tariff_id ORDER BY recorded_at ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
        ) AS known_until
    FROM tariff FINAL
)
WHERE NOT deleted
