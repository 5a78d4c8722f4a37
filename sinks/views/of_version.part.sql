    -- what names no phase trains where it names a run, unless processes of the version did only the other
    if(phase != '', phase = 'training',
        (run != '') != (
            arrayExists(h -> h.2 = (run = '') AND (told_version = '' OR told_version = h.1), sole.held)
            AND NOT arrayExists(h -> h.2 = (run != '') AND (told_version = '' OR told_version = h.1), sole.held))
    ) AS is_training,
    if(told_version = '' AND NOT is_training AND countEqual(sole.held.2, 0) = 1,
        arrayFirst(h -> NOT h.2, sole.held).1, told_version) AS model_version
