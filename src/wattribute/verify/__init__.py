"""How far attribution is from the truth, where that is known.

On simulated GPUs:

scenarios   which hosts are simulated
recording   what a collector records of one, and what each process truly used
methods     what the stream makes of a recording, and what simpler methods would
score       how far each is off

On real GPUs:

gpu_plan    which loads share one, and when each works
gpu_load    one of them: a process that works to the plan
cuda        the calls by which it does
loads.ptx   what it has the GPU do
gpu_run     starts the loads, and records
gpu_sensors what the GPU told of its power meanwhile
gpu_report  what a recording tells
"""
