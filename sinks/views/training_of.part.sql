if({{trains}} AND NOT (
                phase = ''
                AND arrayDistinct(arrayMap(
                    h -> h.3, arrayFilter(h -> h.1 = model AND has(['', h.2], model_version), held_by))) = [0]), run, '')
