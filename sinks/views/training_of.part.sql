if({{trains}} AND NOT (
                phase = ''
                AND arrayExists(h -> h.1 = model AND has(['', h.2], model_version) AND NOT h.3, held_by)
                AND NOT arrayExists(h -> h.1 = model AND has(['', h.2], model_version) AND h.3, held_by)), run, '')
