"""How far attribution is from the truth, where that is known.

On simulated GPUs:

scenarios   which hosts are simulated
recording   what a collector records of one, and what each process truly used
methods     what the stream makes of a recording, and what simpler methods would
score       how far each is off

On real GPUs:

load        a process that uses one as a plan says
cuda        the calls by which it does
loads.ptx   what it runs there
"""
