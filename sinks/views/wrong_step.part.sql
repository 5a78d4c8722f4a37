    -- a subquery, as wrong_policy
    (
        SELECT throwIf(
            {step:String} NOT IN ('all', 'hour', 'day', 'week', 'month'),
            'unknown step: it is one of hour, day, week, month, all')
    ) AS wrong_step
