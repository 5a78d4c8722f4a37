"""How far attribution is from the truth, where that is known.

On simulated GPUs:

scenarios   which hosts are simulated
recording   what a collector records of one, and what each process truly used
methods     what the stream attributes from a recording, and what simpler methods would
score       how far each method is off

On real GPUs:

gpu_plan    which loads share a GPU, and when each works
gpu_load    one load: a process that works to the plan
cuda        the CUDA calls that it uses
loads.ptx   the kernels that it runs
gpu_run     starts the loads, and records
gpu_sensors what the GPU reported of its power meanwhile
gpu_report  the results of a recording
"""
