multiIf(
    {policy:String} = 'equal', gpu_time_equal_ns,
    {policy:String} = 'memory', gpu_time_memory_ns,
    gpu_time_active_ns)
