-- Windows in which the parts are not the whole, under any policy. There must be none.
-- By boot: a host that starts anew within one window has two devices in it, each with a counter of its own.
CREATE OR REPLACE VIEW conservation AS
SELECT
    host,
    gpu,
    boot_id,
    window_start,
    device_energy_uj,
    device_energy_max_uj,
    energy_equal_uj,
    energy_memory_uj,
    energy_active_uj,
    covered_ns,
    covered_max_ns,
    gpu_time_equal_sum_ns,
    gpu_time_memory_sum_ns,
    gpu_time_active_sum_ns
FROM
(
    SELECT
        host,
        gpu,
        boot_id,
        window_start,
        min(w.device_energy_uj) AS device_energy_uj,
        max(w.device_energy_uj) AS device_energy_max_uj,
        sum(w.active_energy_uj + w.idle_energy_equal_uj) AS energy_equal_uj,
        sum(w.active_energy_uj + w.idle_energy_memory_uj) AS energy_memory_uj,
        sum(w.active_energy_uj + w.idle_energy_active_uj) AS energy_active_uj,
        toInt64(min(w.covered_ns)) AS covered_ns,
        toInt64(max(w.covered_ns)) AS covered_max_ns,
        sum(w.gpu_time_equal_ns) AS gpu_time_equal_sum_ns,
        sum(w.gpu_time_memory_ns) AS gpu_time_memory_sum_ns,
        sum(w.gpu_time_active_ns) AS gpu_time_active_sum_ns
    FROM attribution AS w FINAL
    GROUP BY host, gpu, boot_id, window_start
)
WHERE device_energy_max_uj != device_energy_uj
    OR energy_equal_uj != device_energy_uj
    OR energy_memory_uj != device_energy_uj
    OR energy_active_uj != device_energy_uj
    OR covered_max_ns != covered_ns
    OR gpu_time_equal_sum_ns != covered_ns
    OR gpu_time_memory_sum_ns != covered_ns
    OR gpu_time_active_sum_ns != covered_ns
