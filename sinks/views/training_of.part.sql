if({{trains}} AND NOT (phase = '' AND has(served_only, (model, model_version))), run, '')
