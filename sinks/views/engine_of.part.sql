            -- an engine that names no pod stands for all pods of its host, one that names no version for all versions
            if((host, pod, model, model_version) IN places OR (host, pod, model, '') IN places, pod, '') AS engine_pod,
            if((host, engine_pod, model, model_version) IN places, model_version, '') AS engine_version,
            (host, engine_pod, model, engine_version) IN places AS is_known
