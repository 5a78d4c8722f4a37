    -- without a phase, a unit with a run is training and one without is serving, unless processes of the version only
    -- did the other
    if(phase != '', phase = 'training',
        (run != '') != (
            arrayExists(h -> h.2 = (run = '') AND has(['', h.1], told_version), sole.held)
            AND NOT arrayExists(h -> h.2 = (run != '') AND has(['', h.1], told_version), sole.held))
    ) AS is_training,
    -- what names no version belongs to the only one that held a GPU at the time, else to the only one in the span if
    -- none did
    multiIf(
        told_version != '', told_version,
        is_training, '',
        length(arrayDistinct(arrayFilter(h -> NOT h.2 AND h.3 < end_ns AND h.4 > begin_ns, sole.held).1) AS meanwhile) = 1,
        meanwhile[1],
        notEmpty(meanwhile), '',
        length(arrayDistinct(arrayFilter(h -> NOT h.2, sole.held).1) AS served) = 1, served[1],
        '') AS model_version
