    -- without a phase, a unit with a run is training and one without is serving, unless processes of the version only
    -- did the other
    if(phase != '', phase = 'training',
        (run != '') != if(run = '', sole.trains_too AND NOT sole.serves_too, sole.serves_too AND NOT sole.trains_too)
    ) AS is_training,
    -- what names no version belongs to the only one that held a GPU at the time, else to the only one in the span if
    -- none did
    multiIf(
        told_version != '', told_version,
        is_training, '',
        length(arrayFilter(n -> n.1 < end_ns, sole.next).2 AS meanwhile) = 1, meanwhile[1],
        notEmpty(meanwhile), '',
        sole.only_version) AS model_version
