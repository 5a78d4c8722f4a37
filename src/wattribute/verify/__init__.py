"""How far attribution is from the truth, where that is known: on simulated GPUs.

scenarios   which hosts are simulated
recording   what a collector records of one, and what each process truly used
methods     what the stream makes of a recording, and what simpler methods would
score       how far each is off
"""
