    -- what names no phase trains where it names a run, unless processes of the version did only the other
    if(phase != '', phase = 'training',
        (run != '') != (
            arrayExists(h -> h.2 = (run = '') AND (told_version = '' OR told_version = h.1), sole.held)
            AND NOT arrayExists(h -> h.2 = (run != '') AND (told_version = '' OR told_version = h.1), sole.held))
    ) AS is_training,
    -- what names no version is of the only one that held a GPU meanwhile; where none did, of the only one in the span
    multiIf(
        told_version != '' OR is_training, told_version,
        length(arrayFilter(h -> NOT h.2 AND h.3 < end_ns AND h.4 > begin_ns, sole.held) AS meanwhile) = 1, meanwhile[1].1,
        empty(meanwhile) AND countEqual(sole.held.2, 0) = 1, arrayFirst(h -> NOT h.2, sole.held).1,
        '') AS model_version
