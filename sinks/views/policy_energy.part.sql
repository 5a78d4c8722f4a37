active_energy_uj + multiIf(
    {policy:String} = 'equal', idle_energy_equal_uj,
    {policy:String} = 'memory', idle_energy_memory_uj,
    idle_energy_active_uj)
