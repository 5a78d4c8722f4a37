    -- The units and models that several sources reported. Without FINAL: a source all of whose counts were replaced by
    -- those of another is found too, and is then there in no minute.
    (
        SELECT groupArray((unit, model, authorities))
        FROM
        (
            SELECT unit, model, groupUniqArray(authority) AS authorities
            FROM unit_teller
            WHERE unit IN (SELECT arrayJoin(splitByChar(',', {unit:String})))
            GROUP BY unit, model
            HAVING length(authorities) > 1
        )
    ) AS contested,
    sources AS
    (
        SELECT
            c.1 AS unit,
            c.2 AS model,
            arrayJoin(c.3) AS authority,
            arrayMin(c.3) AS least,
            arrayMax(c.3) AS greatest
        FROM (SELECT arrayJoin(contested) AS c)
    )
