    -- a subquery, so that it is evaluated where there is no row too
    (
        SELECT throwIf(
            NOT hasAll(['equal', 'memory', 'active'], [{policy:String}]),
            'unknown policy: it is one of equal, memory, active')
    ) AS wrong_policy
